"""How often the daemon's parts look, how long they wait, and when they try again."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """Seconds. The defaults are those of production; tests pass shorter ones."""

    cooling_check_s: float = 0.5
    """Between two looks at whether a board that was too hot has cooled."""
    frame_wait_s: float = 5.0
    """A person who starts or ends a slide waits at most so long for the current frame."""

    camera_opening_s: float = 20.0
    """A camera may take so long beyond its timeout until it is open."""
    camera_back_off_s: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 3.0)
    """Before a failed camera is tried again; the last one over and over."""

    services_every_s: float = 2.0
    """Between two rounds of the services' thread."""
    seldom_every_s: float = 30.0
    """Between two looks at the disk, the clock and the heat."""
    parting_s: float = 3.0
    """For messages that wait when the daemon ends; the next start sends the rest."""

    probation_check_s: float = 30.0
    """Between two verdicts on a bundle on probation."""
    probation_saved_s: float = 60.0
    """How often the time on probation is written down."""
    bundle_retry_s: float = 30.0
    """Until a bundle that could not be judged is tried again."""
    harmless_after_s: float = 60.0
    """A good bundle that ran for so long did not cause the crashes before it."""

    latency_stored_s: float = 2.0
    """How often latency histograms are stored; rows are stored with every frame."""
    database_check_s: float = 0.5
    """Between two looks at whether the database is still in its place, while nothing is stored."""
    progress_logged_s: float = 10.0
    full_disk_retry_s: float = 1.0
    full_disk_wait_s: float = 5.0
    """How long the daemon's end waits for a full disk."""

    broker_back_off_s: tuple[float, ...] = (0.5, *[1.0] * 20, 2.0, 5.0)
    """Between attempts to connect, less up to half at random, so that many boards do not come at once. A broker that
    restarts is away for seconds and found within one more; after half a minute it is found within 5 s."""
    status_every_s: float = 10.0
    """Between two status messages."""

    download_retry_s: tuple[float, ...] = (5.0, 15.0, 60.0, 300.0)
    """Between attempts to fetch the bundle that the fleet requests."""


TIMINGS = Timings()
"""Those of production."""
