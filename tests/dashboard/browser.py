"""A headless Chromium, driven by the DevTools protocol over a pipe: pages are opened, clicked, read, photographed. (IO)

Blocking, one command at a time; what a page says in between (errors, violations) is kept with it.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import selectors
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.process import eventually

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DEADLINE_S = 30.0
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Browser:
    """One process with a profile of its own under ``directory``; left by `with`, it ends."""

    def __init__(self, directory: Path) -> None:
        assert CHROMIUM is not None
        commands, self._write = _pipe()
        self._read, answers = _pipe()
        words = [CHROMIUM, *FLAGS, f"--user-data-dir={directory}", "about:blank"]
        with (directory / "log").open("wb") as log:
            quiet = [(os.POSIX_SPAWN_DUP2, log.fileno(), number) for number in (1, 2)]
            pipes = [(os.POSIX_SPAWN_DUP2, commands, 3), (os.POSIX_SPAWN_DUP2, answers, 4)]
            home = {**os.environ, "HOME": str(directory)}
            self._pid = os.posix_spawn(CHROMIUM, words, home, file_actions=[*quiet, *pipes], setpgroup=0)
        os.close(commands)
        os.close(answers)
        self._left = b""
        self._number = 0
        self.pages: dict[str, Page] = {}

    def ask(self, method: str, session: str = "", **parameters: object) -> Any:
        """The command's result. Fails where the browser refuses it or says nothing."""
        self._number += 1
        number = self._number
        command = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + DEADLINE_S
        while True:
            said = self._next(deadline)
            if said.get("id") == number:
                assert "error" not in said, f"{method}: {said['error']}"
                return said["result"]
            page = self.pages.get(said.get("sessionId", ""))
            if page is not None:
                page.hear(said)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._left:
            with selectors.DefaultSelector() as selector:
                selector.register(self._read, selectors.EVENT_READ)
                assert selector.select(max(0.0, deadline - time.monotonic())), "the browser says nothing"
            received = os.read(self._read, 1 << 20)
            assert received, "the browser ended"
            self._left += received
        line, _, self._left = self._left.partition(b"\0")
        said = json.loads(line)
        assert isinstance(said, dict)
        return said

    def page(self, url: str = "", *, width: int = 1440, height: int = 900, dark: bool = False) -> Page:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.ask(f"{domain}.enable")
        page.size(width, height)
        page.scheme(dark=dark)
        if url:
            page.go(url)
        return page

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(AssertionError, OSError):
            self.ask("Browser.close")
        os.close(self._write)
        os.close(self._read)
        if not eventually(lambda: os.waitpid(self._pid, os.WNOHANG)[0] != 0):
            os.killpg(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _pipe() -> tuple[int, int]:
    """Ends with numbers that are not those the browser wants its own to have."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]


class Page:
    """One tab. ``complaints``: errors on its console, exceptions, violations of its policy, answers of 500 and more."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        self.complaints: list[str] = []

    def ask(self, method: str, **parameters: object) -> Any:
        return self._browser.ask(method, self._session, **parameters)

    def hear(self, said: dict[str, Any]) -> None:
        match said["method"], said["params"]:
            case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                self.complaints.append(json.dumps(details)[:600])
            case "Runtime.consoleAPICalled", {"type": "error" | "warning" | "assert", "args": words}:
                self.complaints.append(json.dumps(words)[:600])
            case "Log.entryAdded", {"entry": {"level": "error" | "warning", "text": text, **more}}:
                self.complaints.append(f"{text} {more.get('url', '')}")

    def size(self, width: int, height: int, *, density: float = 1.0) -> None:
        narrow = width < 600
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=density, mobile=narrow
        )

    def scheme(self, *, dark: bool, still: bool = True) -> None:
        """What the system says that the user prefers."""
        wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        chosen = [{"name": name, "value": value} for name, value in wishes.items() if still or "motion" not in name]
        self.ask("Emulation.setEmulatedMedia", features=chosen)

    def allow(self, *permissions: str) -> None:
        """What the user would be asked for."""
        self._browser.ask("Browser.grantPermissions", permissions=permissions)

    def go(self, url: str) -> None:
        """Open the URL and wait until the document is parsed and its modules ran."""
        self.ask("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def js(self, expression: str) -> Any:
        """The expression's value, awaited where it is a promise."""
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, f"{expression}: {result}"
        return result["result"].get("value")

    def until(self, expression: str, within_s: float = 15.0) -> None:
        """Wait for something that comes to hold; what cannot be said yet, of a page that is being loaded, does not."""
        asked = f"(() => {{ try {{ return !!({expression}) }} catch {{ return false }} }})()"
        assert eventually(lambda: self.js(asked) is True, within_s), f"not so: {expression}\n{self.text()[:3000]}"

    def text(self, selector: str = "body") -> str:
        return str(self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def count(self, selector: str) -> int:
        return int(self.js(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of what is there, as a person would."""
        it = f"document.querySelector({json.dumps(selector)})"
        self.until(it)
        box: list[float] = []

        def still() -> bool:
            """What is clicked stands where it stood a frame ago, with nothing over it."""
            before = box[:]
            self.js(f"{it}.scrollIntoView({{block: 'center'}}); new Promise(requestAnimationFrame)")
            box[:] = self.js(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({it}.getBoundingClientRect())")
            return box == before and self.js(f"{it}.contains(document.elementFromPoint({box[0]}, {box[1]}))") is True

        assert eventually(still), f"{selector} cannot be clicked"
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.ask("Input.insertText", text=text)

    def key(self, key: str, code: int = 0, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def shot(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of what is to be seen, or of the whole page."""
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        self._browser.ask("Target.closeTarget", targetId=self._target)
        self._browser.pages.pop(self._session, None)
