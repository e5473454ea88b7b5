"""nats-server in a container: the official image, with the configuration of the test mounted.

Chosen by `TIDEGATE_TEST_SERVER=docker`. Needs a Docker engine; without one the tests fail.
"""

from __future__ import annotations

import asyncio
import gc
import warnings
from pathlib import Path

from docker.errors import DockerException  # type: ignore[import-untyped]  # it ships no types
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

IMAGE = "nats:2.14-alpine"
PORT = 4222
EVERYWHERE = "0.0.0.0"  # noqa: S104 - everywhere in the container; the port is published on loopback
STORE = Path("/data")
_CONFIGURATION = "/etc/tidegate.conf"


class ContainerServer:
    """A nats-server in a container of its own. Make one with `start`."""

    def __init__(self, container: DockerContainer) -> None:
        """Strictly private: use `start`."""
        self._container = container
        host, port = container.get_container_host_ip(), container.get_exposed_port(PORT)
        self.url = f"nats://{host}:{port}"

    @staticmethod
    async def start(configuration: Path) -> ContainerServer:
        """Start one and wait until it is ready.

        Args:
            configuration: must listen on `PORT` of all interfaces and keep its streams in `STORE`.

        Raises:
            RuntimeError: no Docker engine answers.
        """
        return await asyncio.to_thread(_start, configuration)

    async def stop(self) -> None:
        """Stop and remove it."""
        await asyncio.to_thread(self._container.stop)


def _start(configuration: Path) -> ContainerServer:
    try:
        container = (
            DockerContainer(IMAGE)
            .with_volume_mapping(configuration, _CONFIGURATION)
            .with_command(["-c", _CONFIGURATION])
            .with_exposed_ports(PORT)
            .waiting_for(LogMessageWaitStrategy("Server is ready"))
        )
        return ContainerServer(container.start())
    except DockerException as error:
        why = str(error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # its client leaves a socket open
        gc.collect()
    raise RuntimeError(
        "TIDEGATE_TEST_SERVER=docker, but no Docker engine answers; start one, or unset the "
        f"variable to test with the nats-server of the wheel: {why}"
    )
