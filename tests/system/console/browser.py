"""A browser, and a stack with something to look at, for the tests of the console."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright

from support.npm import install

WIDTHS = {"wide": 1280, "narrow": 390}
_HEIGHT = 900
_INSTALL_SECONDS = 240
_NODE = Path(__file__).parent / "node"
_WATCH = """
window.__violations = [];
addEventListener("securitypolicyviolation", e => window.__violations.push(
  `${e.violatedDirective} ${e.blockedURI} ${e.sample}`));
"""


def chromium() -> str:
    """Where Debian's Chromium is; installs it where that can be done.

    Raises:
        RuntimeError: it is not there and cannot be installed; says what to do.
    """
    if found := shutil.which("chromium"):
        return found
    way_out = "install it: apt-get install --no-install-recommends chromium fonts-dejavu"
    if os.geteuid() or not shutil.which("apt-get"):
        raise RuntimeError(f"the tests of the console need Chromium; {way_out}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    packages = ("install", "--yes", "--no-install-recommends", "chromium", "fonts-dejavu")
    for command in (("update",), packages):
        done = subprocess.run(
            ("apt-get", "-q", *command),
            env=environment,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
        )
        if done.returncode:
            raise RuntimeError(f"apt-get {command[0]} failed; {way_out}\n{done.stderr[-2000:]}")
    return shutil.which("chromium") or "chromium"


def axe(folder: Path) -> str:
    """The source of axe-core, from its npm package, which is installed in a new folder."""
    package = install(_NODE, folder) / "node_modules" / "axe-core"
    return (package / "axe.min.js").read_text("utf-8")


@dataclass
class Visitor:
    """A person at a browser, in a context of their own.

    Attributes:
        page: that they look at.
        url: of the console.
        clicks: how often they clicked since the last `go`.
        trouble: what the browser complained of: errors of scripts, dialogs, what is not there.
    """

    context: BrowserContext
    page: Page
    url: str
    clicks: int = 0
    trouble: list[str] = field(default_factory=list[str])

    async def go(self, path: str) -> None:
        """Open a page of the console."""
        self.clicks = 0
        await self.page.goto(self.url + path, wait_until="load")

    async def click(self, what: Locator) -> None:
        """Click, and wait for what comes of it."""
        self.clicks += 1
        await what.click()
        await self.page.wait_for_load_state("load")

    async def log_in(self, token: str) -> None:
        """As whoever the token is of."""
        await self.go("/login")
        await self.page.get_by_label("Token").fill(token)
        await self.page.get_by_role("button", name="Log in").click()
        await self.page.get_by_role("button", name="Log out").wait_for()

    async def shoot(self, folder: Path, name: str, *widths: str) -> None:
        """Keep a picture of the page, in both widths if none is said."""
        for word in widths or WIDTHS:
            width = WIDTHS[word]
            await self.page.set_viewport_size({"width": width, "height": _HEIGHT})
            await self.page.screenshot(path=folder / f"{name}-{word}.png", full_page=True)
        await self.page.set_viewport_size({"width": WIDTHS["wide"], "height": _HEIGHT})

    async def overflow(self) -> int:
        """By how many pixels the page is wider than a narrow window."""
        await self.page.set_viewport_size({"width": WIDTHS["narrow"], "height": _HEIGHT})
        script = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        wider: int = await self.page.evaluate(script)
        await self.page.set_viewport_size({"width": WIDTHS["wide"], "height": _HEIGHT})
        return wider

    async def violations(self) -> list[str]:
        """What the policy of the page did not let happen."""
        found: list[str] = await self.page.evaluate("window.__violations")
        return found

    async def barriers(self, source: str) -> list[str]:
        """What axe-core finds that is serious or critical: rule, and where."""
        if not await self.page.evaluate("typeof axe === 'object'"):
            await self.page.evaluate(source)
        found: Any = await self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {node['html'][:200]} {node['any'][0]['message'] if node['any'] else ''}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]


@contextlib.asynccontextmanager
async def browsing() -> AsyncGenerator[Browser]:
    """A browser without a window."""
    path = await asyncio.to_thread(chromium)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            await browser.close()


async def visit(browser: Browser, url: str, *, dark: bool = False) -> Visitor:
    """A new person, who is not logged in."""
    context = await browser.new_context(
        viewport={"width": WIDTHS["wide"], "height": _HEIGHT},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    await context.add_init_script(_WATCH)
    page = await context.new_page()
    visitor = Visitor(context, page, url)
    page.on("pageerror", lambda error: visitor.trouble.append(str(error)))
    page.on("dialog", lambda dialog: visitor.trouble.append(dialog.message))
    page.on(
        "console",
        lambda said: visitor.trouble.append(said.text) if said.type == "error" else None,
    )
    return visitor
