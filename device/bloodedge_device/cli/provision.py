"""``bloodedge device provision``: prepare a root file system for a board."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bloodedge_device.provision.plan import Plan


@click.command("provision")
@click.option("--board", metavar="NAME", help="The board; auto: this one; recorded: that of the last run.")
@click.option(
    "--root",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("/"),
    show_default=True,
    help="The root file system: this machine's, or that of a mounted card.",
)
@click.option("--read-only-root", is_flag=True, help="Keep the root read-only; needs a partition labelled bloodedge.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--undo", is_flag=True, help="Undo an earlier run.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def provision_command(
    board: str | None, root: Path, read_only_root: bool, dry_run: bool, undo: bool, yes: bool
) -> None:
    """Write a board's settings, services and boot options.

    They go into a root file system; the changes are shown first.
    """
    from bloodedge_device.provision.apply import apply, check_rights
    from bloodedge_device.provision.root_paths import needs_root

    try:
        plan = _plan(board, root, read_only_root, undo)
        is_empty = plan.is_empty
    except PermissionError as error:
        raise needs_root(root) from error
    if not (dry_run or is_empty):
        check_rights(plan)
    for line in plan.diff():
        click.echo(line)
    for path, hand in plan.kept.items():
        click.echo(f"{KEPT[hand]}, because it was {hand} by hand: {root / path}", err=True)
    if dry_run or is_empty:
        click.echo("Nothing to do." if is_empty else "Nothing was written.")
        return
    if plan.changes and not yes and not _agreed():
        click.echo("Nothing was written.")
        return
    apply(plan)
    _tell_systemd(root)
    if root.resolve() == Path("/"):
        click.echo("Done; restart the board." if plan.changes else "Done.")
    else:
        click.echo("Done." if (root / PROGRAM).is_symlink() or not plan.changes or undo else f"Done; {WANTS_PROGRAM}")


def _agreed() -> bool:
    """Whether a person agrees; UsageError where nobody can be asked."""
    from bloodedge.errors import UsageError

    try:
        return click.confirm("Write this?")
    except click.Abort as error:
        if not isinstance(error.__context__, EOFError):  # a person pressed Ctrl-C
            raise
        click.echo()  # ends the question's line
        raise UsageError(
            "Nobody can be asked here, so nothing was written; add --yes to write without asking."
        ) from error


def _plan(board: str | None, root: Path, read_only: bool, undo: bool) -> "Plan":
    from bloodedge.errors import UsageError
    from bloodedge_device.provision.boards import recognise
    from bloodedge_device.provision.plan import provisioning, recorded, undoing
    from bloodedge_device.settings.board_profiles import names

    if undo:
        return undoing(root)
    if board is None:
        raise UsageError(f"Name the board with --board: {', '.join(names())}, auto or recorded.")
    if board == "recorded":
        board, was_read_only = recorded(root)
        return provisioning(root, board, read_only or was_read_only)
    if board == "auto":
        if root.resolve() != Path("/"):
            raise UsageError("The board of a mounted card cannot be recognised; name it with --board.")
        board = recognise()
    return provisioning(root, board, read_only)


KEPT = {"changed": "Kept", "removed": "Left out"}

PROGRAM = "usr/bin/bloodedge"
WANTS_PROGRAM = "the card lacks the program: install the package on its board (sudo dpkg -i), then restart it."

MAKES_USER = (
    # After its first start a system makes no new users by itself (systemd-sysusers.service, ConditionNeedsUpdate).
    ("systemd-sysusers", "bloodedge.conf"),
    ("systemd-tmpfiles", "--create", "bloodedge.conf"),
)
RELOADS = (("systemctl", "daemon-reload"), ("udevadm", "control", "--reload"))


def _tell_systemd(root: Path) -> None:
    """Make the daemon's user and folders; a running system reloads units and rules."""
    import shutil
    import subprocess

    from bloodedge.errors import BloodedgeError

    is_live = root.resolve() == Path("/")
    commands: list[tuple[str, ...]] = []
    if (root / "etc/sysusers.d/bloodedge.conf").exists() and (root / "etc/passwd").exists():  # not after an undo
        commands += [(name, *([] if is_live else [f"--root={root.resolve()}"]), *more) for name, *more in MAKES_USER]
    if is_live and Path("/run/systemd/system").is_dir():
        commands += RELOADS
    failed = []
    for command in commands:
        if shutil.which(command[0]) is None:
            continue  # a root without systemd
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            failed.append(f"{' '.join(command)} ({' '.join(done.stderr.split())})")
    if failed:
        raise BloodedgeError(
            f"All was written, but these commands failed; correct the cause and run them: {'; '.join(failed)}."
        )
