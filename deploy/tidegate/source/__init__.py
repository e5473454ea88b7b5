"""What brings events to the bus without speaking to it: files, folders, schedules, a pipe.

    Tail, Watch, Cron ──► Feed ──► Pump ──► Sender ──► the bus
       where each is      saves     keeps a window on its way,
       up to, in a file   each      tells in order what is settled
                          second

Nothing is lost and nothing repeated when a process is killed, because of three rules. The id of an
event follows from where it comes from (a place in a file, a tick of a schedule), not from chance.
Where a source is up to is written down after the bus has answered, never before. And what is
published once more in between has the same id, so the bus answers `duplicate`, for as long as it
remembers (`gateway.dedupe_window`, ten minutes).
"""
