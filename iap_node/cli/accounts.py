"""`users` and `tokens`: who may sign in to the console, which programs may use the API, and which may store."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from iap_node.cli.exits import Exit
from iap_node.cli.options import CONFIG, JSON, open_node
from iap_node.cli.output import complain, console, print_json, print_table
from iap_node.config import NodeConfig
from iap_node.records import Role, TokenScope

if TYPE_CHECKING:
    from iap_node.database.engine import Database

users = typer.Typer(no_args_is_help=True, help="Who may sign in to the console.")
tokens = typer.Typer(no_args_is_help=True, help="Which programs may use the API, and which may store.")


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.add_typer(users, name="users")
    app.add_typer(tokens, name="tokens")


def make_first_admin(config: NodeConfig) -> None:
    """Where nobody may sign in yet: make the account `admin`, and print its one-time password, once."""
    from iap_node.database.accounts import create_account, has_accounts, note
    from iap_node.database.engine import Database
    from iap_node.web.secrets import hash_password, one_time_password

    database = Database(config.database_url)
    try:
        with database.reading() as session:
            if has_accounts(session):
                return
        password, now = one_time_password(), datetime.now(UTC)
        password_hash = hash_password(password)
        with database.transaction() as session:
            if has_accounts(session):
                return
            create_account(session, "admin", Role.ADMIN, now, password_hash=password_hash, must_change_password=True)
            note(session, "iap-node", "make account", "admin", now, "the first one")
    finally:
        database.dispose()
    web = config.web
    where = f"{'https' if web.certificate else 'http'}://{web.bind}:{web.port}/" if web.port else "the console"
    typer.echo(f"Sign in at {where} as admin with the one-time password {password}", err=True)


@users.command("list")
def list_users(config_path: Path = CONFIG, as_json: bool = JSON) -> None:
    """Accounts, their roles, and who is signed in."""
    from iap_node.database.accounts import list_accounts

    _, database = open_node(config_path)
    with database.reading() as session:
        found = list_accounts(session)
    if as_json:
        print_json(found)
        return
    rows = [
        (one.name, one.role, one.signs_in_by, one.n_sessions, one.n_tokens, one.created_at, one.disabled_at)
        for one in found
    ]
    columns = ("name", "role", "signs in by", "browsers", "tokens", "since", "disabled")
    print_table("Accounts", columns, rows, empty="nobody may sign in; `iap-node users add NAME --role admin`")


@users.command("add")
def add_user(
    name: str = typer.Argument(...),
    role: Role = typer.Option(Role.VIEWER, "--role", "-r", help="What the account may do."),
    config_path: Path = CONFIG,
) -> None:
    """Make an account and print its one-time password."""
    from iap_node.database.accounts import create_account, note
    from iap_node.web.secrets import hash_password, one_time_password

    _, database = open_node(config_path)
    password, now = one_time_password(), datetime.now(UTC)
    password_hash = hash_password(password)
    with database.transaction() as session:
        create_account(session, name, role, now, password_hash=password_hash, must_change_password=True)
        note(session, _me(), "make account", name, now, role.value)
    console().print(f"{name} may sign in as {role}; one-time password: {password}", markup=False)


@users.command("password")
def reset_password(name: str = typer.Argument(...), config_path: Path = CONFIG) -> None:
    """Give an account a new one-time password; its browsers are signed out."""
    from iap_node.database.accounts import change_password, note
    from iap_node.web.secrets import hash_password, one_time_password

    _, database = open_node(config_path)
    account_id = _account_id(name, database)
    password = one_time_password()
    password_hash = hash_password(password)
    with database.transaction() as session:
        change_password(session, account_id, password_hash, must_change=True)
        note(session, _me(), "reset password", name, datetime.now(UTC))
    console().print(f"one-time password of {name}: {password}", markup=False)


@users.command("role")
def set_role(name: str = typer.Argument(...), role: Role = typer.Argument(...), config_path: Path = CONFIG) -> None:
    """Give an account another role."""
    from iap_node.database.accounts import change_role, note

    _, database = open_node(config_path)
    account_id = _account_id(name, database)
    with database.transaction() as session:
        change_role(session, account_id, role)
        note(session, _me(), "change role", name, datetime.now(UTC), role.value)
    console().print(f"{name} is {role} now", markup=False)


@users.command("disable")
def disable(name: str = typer.Argument(...), config_path: Path = CONFIG) -> None:
    """Let an account in no more; its browsers and tokens end at once."""
    from iap_node.database.accounts import disable_account, note

    _, database = open_node(config_path)
    account_id, now = _account_id(name, database), datetime.now(UTC)
    with database.transaction() as session:
        disable_account(session, account_id, now)
        note(session, _me(), "disable account", name, now)
    console().print(f"{name} is not let in any more", markup=False)


@users.command("enable")
def enable(name: str = typer.Argument(...), config_path: Path = CONFIG) -> None:
    """Let an account in again."""
    from iap_node.database.accounts import enable_account, note

    _, database = open_node(config_path)
    account_id = _account_id(name, database)
    with database.transaction() as session:
        enable_account(session, account_id)
        note(session, _me(), "enable account", name, datetime.now(UTC))
    console().print(f"{name} is let in again", markup=False)


@tokens.command("list")
def list_all_tokens(config_path: Path = CONFIG, as_json: bool = JSON) -> None:
    """Tokens; what a token is was shown once, when it was made."""
    from iap_node.database.accounts import list_tokens

    _, database = open_node(config_path)
    with database.reading() as session:
        found = list_tokens(session)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            one.id, one.name, one.owner, one.scope if one.scope is TokenScope.STORE else one.role, one.created_at,
            one.expires_at, one.revoked_at,
        )
        for one in found
    ]  # fmt: skip
    print_table("Tokens", ("id", "name", "owner", "may", "since", "until", "revoked"), rows, empty="no tokens")


@tokens.command("add")
def add_token(
    owner: str = typer.Argument(..., help="Account that answers for it."),
    name: str = typer.Argument(..., help="What it is for; of one that stores, the sender's AE title."),
    role: Role = typer.Option(Role.VIEWER, "--role", "-r", help="What it may do, its owner's role at most."),
    scope: TokenScope = typer.Option(TokenScope.API, "--scope", help="store: for STOW-RS, and nothing else."),
    days: float | None = typer.Option(None, "--days", min=0.01, help="Ends by itself after so many days."),
    config_path: Path = CONFIG,
) -> None:
    """Make a token for a program and print it, once."""
    from iap_node.database.accounts import create_token, list_accounts, note
    from iap_node.records import Account
    from iap_node.web.secrets import hash_token, new_token

    _, database = open_node(config_path)
    token, now = new_token(), datetime.now(UTC)
    account_id = _account_id(owner, database)
    with database.transaction() as session:
        found = next(one for one in list_accounts(session) if one.id == account_id)
        account = Account(found.id, found.name, found.role)
        expires_at = None if days is None else now + timedelta(days=days)
        create_token(session, hash_token(token), name, account, role, now, expires_at, scope)
        told = scope if scope is TokenScope.STORE else role
        note(session, _me(), "make token", name, now, f"{told} for {owner}")
    print(token)


@tokens.command("revoke")
def revoke(token_id: int = typer.Argument(..., metavar="ID"), config_path: Path = CONFIG) -> None:
    """End a token."""
    from iap_node.database.accounts import note, revoke_token

    _, database = open_node(config_path)
    now = datetime.now(UTC)
    with database.transaction() as session:
        ended = revoke_token(session, token_id, now)
        if ended:
            note(session, _me(), "revoke token", str(token_id), now)
    if not ended:
        complain(f"no token {token_id} that still is one; `iap-node tokens list`")
        raise typer.Exit(Exit.NOT_FOUND)
    console().print(f"token {token_id} has ended")


def _account_id(name: str, database: Database) -> int:
    from iap_node.database.accounts import list_accounts

    with database.reading() as session:
        for one in list_accounts(session):
            if one.name == name:
                return one.id
    complain(f"no account {name!r}; `iap-node users list`")
    raise typer.Exit(Exit.NOT_FOUND)


def _me() -> str:
    """As the audit trail has who works at the terminal."""
    return f"{getpass.getuser()} at the terminal"
