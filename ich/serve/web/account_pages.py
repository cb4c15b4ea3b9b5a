"""Pages of accounts: an administrator's list, and everybody's own password."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from ich.schema import UserError
from ich.serve.states import Role
from ich.serve.store import Store
from ich.serve.store.accounts import change_account, create_account, find_account, list_accounts
from ich.serve.store.events import EventKind, add_event
from ich.serve.web.access import User
from ich.serve.web.forms import Form, read_form
from ich.serve.web.passwords import check_name, check_password, hash_password, is_password
from ich.serve.web.site import Site

_OWN = "You cannot change your own account here, so that one administrator is always left."


def make_router(site: Site) -> APIRouter:
    """Makes the routes of accounts."""
    router = APIRouter()

    def show(request: Request, user: User, error: str = "", status: int = 200) -> Response:
        with site.store.view() as connection:
            found = list_accounts(connection)
        said = request.query_params.get("done", "") if not error else ""
        return site.pages.render(
            "accounts.html",
            request,
            user,
            status,
            accounts=found,
            roles=list(Role),
            error=error,
            done=_DONE.get(said, ""),
        )

    @router.get("/accounts")
    def list_all(request: Request) -> Response:
        return show(request, site.access.require(request, Role.ADMINISTER))

    @router.post("/accounts", dependencies=[Depends(read_form)])
    def add(request: Request) -> Response:
        user, form = site.access.require_form(request, Role.ADMINISTER)
        try:
            role = read_role(form.text("role"))
            add_account(
                site.store, form.text("name"), form.text("password"), role, site.now(), actor=user.name
            )
        except UserError as error:
            return show(request, user, str(error), 422)
        return RedirectResponse("/accounts?done=made", 303)

    @router.post("/accounts/{name}", dependencies=[Depends(read_form)])
    def change(request: Request, name: str) -> Response:
        user, form = site.access.require_form(request, Role.ADMINISTER)
        try:
            change_other(site.store, user.name, name, form, site.now())
        except UserError as error:
            return show(request, user, str(error), 422)
        return RedirectResponse("/accounts?done=changed", 303)

    @router.get("/password")
    def show_password(request: Request) -> Response:
        user = site.access.require(request)
        return site.pages.render("password.html", request, user, error="")

    @router.post("/password", dependencies=[Depends(read_form)])
    def set_password(request: Request) -> Response:
        user, form = site.access.require_form(request)
        try:
            change_own_password(site.store, user.name, form, site.now())
        except UserError as error:
            return site.pages.render("password.html", request, user, 422, error=str(error))
        return RedirectResponse("/login", 303)

    return router


_DONE = {"made": "The account was made.", "changed": "The account was changed. Its sessions have ended."}


def add_account(store: Store, name: str, password: str, role: Role, now: float, *, actor: str) -> None:
    """Makes an account.

    Args:
        store: The database.
        name: Its name; upper case becomes lower case.
        password: Its password.
        role: What it may do.
        now: The time.
        actor: Who makes it, for the audit log.

    Raises:
        UserError: If the name or the password cannot be used, or the name is taken.
    """
    name = check_name(name)
    hashed = hash_password(check_password(password))
    with store.begin() as connection:
        if not create_account(connection, name, hashed, role, now):
            raise UserError(f"There is an account {name} already.")
        add_event(connection, now, actor, EventKind.ACCOUNT, detail=f"made {name} with the role {role}")


def change_other(store: Store, actor: str, name: str, form: Form, now: float) -> None:
    """Changes an account as a form says.

    Raises:
        UserError: If it is the own account, there is none of the name, or the form cannot be followed.
    """
    if name == actor:
        raise UserError(_OWN)
    role, password, disabled = None, None, None
    match form.text("change"):
        case "role":
            role = read_role(form.text("role"))
            detail = f"gave {name} the role {role}"
        case "password":
            password = hash_password(check_password(form.text("password")))
            detail = f"reset the password of {name}"
        case "disable" | "enable" as change:
            disabled = change == "disable"
            detail = f"{change}d {name}"
        case _:
            raise UserError("The form does not say what to change.")
    with store.begin() as connection:
        account = find_account(connection, name)
        if account is None:
            raise UserError(f"There is no account {name[:64]}.")
        change_account(connection, account.id, password=password, role=role, disabled=disabled)
        add_event(connection, now, actor, EventKind.ACCOUNT, detail=detail)


def change_own_password(store: Store, name: str, form: Form, now: float) -> None:
    """Changes the password of who sends the form.

    Raises:
        UserError: If the old password is wrong, or the new one cannot be used.
    """
    with store.view() as connection:
        account = find_account(connection, name)
    if account is None or not is_password(account.password, form.text("old")):
        raise UserError("The old password is wrong.")
    hashed = hash_password(check_password(form.text("password")))
    with store.begin() as connection:
        change_account(connection, account.id, password=hashed)
        add_event(connection, now, name, EventKind.ACCOUNT, detail="changed the own password")


def read_role(text: str) -> Role:
    """Reads a role.

    Raises:
        UserError: If it is none.
    """
    try:
        return Role(text)
    except ValueError as error:
        raise UserError(f"role={text[:20]}: expected one of {', '.join(Role)}") from error
