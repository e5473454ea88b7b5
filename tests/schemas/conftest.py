"""One Hypothesis profile for the folder: the same examples on every machine, none timed."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "schemas",
    database=None,
    deadline=None,  # a busy machine is no bug
    derandomize=True,  # a test that fails here fails everywhere
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("schemas")
