"""Requests to the admin plane, judged by `protocols.admin.access`; logging in and out. (IO)"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec
import trio
from quart import Quart, Response, request

from gateway.config.settings import AdminListener
from protocols.admin.access import SESSION_S, Asked, Refusal, Rules, is_token, judge, session
from protocols.admin.answers import error, page
from protocols.admin.token_file import TokenFile

_GUESS_S: Final = 0.5
_GUESSERS: Final = 64
"""As many wait for word that their token is wrong; those who come besides are told at once, and fill no connections."""
_WRONG: Final = Refusal(401, "that is not the token", guessed=True)


class Guard:
    """``listener``: the section in force. ``rules``: how the listener was opened."""

    def __init__(self, listener: Callable[[], AdminListener], rules: Rules) -> None:
        self._listener = listener
        self._rules = rules
        self._file = TokenFile()
        self._guessers = 0

    @property
    def rules(self) -> Rules:
        section = self._listener()
        return msgspec.structs.replace(
            self._rules, token_wanted=bool(section.token_file), anonymous_metrics=section.anonymous_metrics
        )

    @property
    def token(self) -> str:
        self._file.path = self._listener().token_file
        return self._file.token()

    def install(self, app: Quart) -> None:
        """Nothing of ``app`` is reached but through here; `/login` and `/logout` are added."""
        app.before_request(self._refuse)
        app.add_url_rule("/login", "login page", self._login_page, methods=["GET"])
        app.add_url_rule("/login", "login", self._login, methods=["POST"])
        app.add_url_rule("/logout", "logout", self._logout, methods=["POST"])

    def asked(self) -> Asked:
        """By the request that the running task answers."""
        rules, fields = self.rules, request.headers
        return Asked(
            method=request.method,
            path=request.path,
            host=fields.get("host", ""),
            origin=fields.get("origin", ""),
            fetch_site=fields.get("sec-fetch-site", ""),
            fetch_mode=fields.get("sec-fetch-mode", ""),
            fetch_dest=fields.get("sec-fetch-dest", ""),
            authorization=fields.get("authorization", ""),
            session=request.cookies.get(rules.cookie, ""),
        )

    def refusal(self, asked: Asked) -> Refusal | None:
        """As of now."""
        return judge(asked, self.rules, self.token, time.time())

    async def _refuse(self) -> Response | None:
        refusal = self.refusal(self.asked())
        return None if refusal is None else await self._refused(refusal)

    async def _refused(self, refusal: Refusal) -> Response:
        if refusal.guessed:
            await self._bide()
        if refusal.status != 401:
            return error(refusal.status, refusal.message)
        shown = request.path in ("/", "/login") and "text/html" in request.headers.get("accept", "")
        response = page("login.html", 401) if shown else error(401, refusal.message)
        response.headers["www-authenticate"] = 'Bearer realm="infer-gateway admin"'
        return response

    async def _bide(self) -> None:
        if self._guessers >= _GUESSERS:
            return
        self._guessers += 1
        try:
            await trio.sleep(_GUESS_S)
        finally:
            self._guessers -= 1

    async def _login_page(self) -> Response:
        return page("login.html") if self.rules.guarded else _home()

    async def _login(self) -> Response:
        rules = self.rules
        if not rules.guarded:
            return _home()
        shown = (await request.form).get("token", "")
        token = self.token
        if not is_token(shown.strip(), token):
            return await self._refused(_WRONG)
        response = _home()
        response.set_cookie(
            rules.cookie,
            session(token, time.time()),
            max_age=SESSION_S,
            path="/",
            secure=rules.tls or request.headers.get("origin", "").startswith("https://"),
            httponly=True,
            samesite="Strict",
        )
        return response

    async def _logout(self) -> Response:
        rules, response = self.rules, Response(b"", 303, headers={"location": "/login", "cache-control": "no-store"})
        response.delete_cookie(rules.cookie, path="/", secure=rules.tls, httponly=True, samesite="Strict")
        return response


def _home() -> Response:
    return Response(b"", 303, headers={"location": "/", "cache-control": "no-store"})
