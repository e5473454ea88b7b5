"""The processes of a project as services of the machine: what systemd is told of each of them.

parts.py     which processes there are, what each may read, write and reach
units.py     a part as the text of a unit; `text.py` quotes
systemd.py   the folder where units are, `systemctl` and `journalctl`

Order, where `>` waits for the other to be ready:

    target ──► broker > gateway
               notary, coordinator, agents, edge, console > broker

The broker's service keeps the broker, and what `tidegate up` does besides starting processes: it
lets identities in, puts the policies in force and keeps deliveries in step. It is ready when that
is done, for which the gateway must be there.
"""

from .parts import Part, parts
from .units import Manager, units

__all__ = ["Manager", "Part", "parts", "units"]
