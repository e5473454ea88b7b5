"""What the reviewers know. Functions over values: no bus, no git, no clock."""
