"""A data set looked at in full: what training would say of it, and what only a second look finds. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..errors import RequestError, RunError
from .audit import Audit, audit, check_usable
from .findings import Finding, findings, graded, many, overlong
from .glance import Glance
from .options import FolderOptions
from .pictures import BadPicture
from .twins import Look, equal, nearly_equal


@dataclass(frozen=True)
class Survey:
    """What is known of a data set.

    Attributes:
        audit: of the pictures that could be decoded.
        findings: all points about it, the gravest first.
        obstacle: the sentence with which training would refuse it; empty where it would not.
    """

    audit: Audit
    findings: list[Finding]
    obstacle: str


def survey(options: FolderOptions, base: Glance, told: Callable[[int, int], None] = lambda done, total: None) -> Survey:
    """Read and decode a data set.

    Args:
        told: hears how many pictures of how many were looked at.

    Raises:
        RequestError: there is no such data set, or it holds no picture, or the resolution does not suit the base.
    """
    found = audit(options, options.resolution or base.resolution, base.unit)
    looks, whole, left_out = [], [], list(found.left_out)
    for number, picture in enumerate(found.pictures, 1):
        try:
            looks.append(Look.of(picture.decoded()))
            whole.append(picture)
        except BadPicture as error:
            left_out.append(str(error))
        told(number, len(found.pictures))
    found = replace(found, pictures=whole, left_out=left_out)
    points = [*findings(found), *overlong(found, base.reader), *_twins(found, looks)]
    try:
        check_usable(found)
        obstacle = ""
    except (RequestError, RunError) as error:
        obstacle = str(error)
    return Survey(found, graded(points), obstacle)


def _twins(found: Audit, looks: Sequence[Look]) -> list[Finding]:
    """Pictures that are there more than once."""
    same = equal([picture.digest for picture in found.pictures])
    known = {frozenset(group) for group in same}
    alike = [group for group in nearly_equal(looks) if frozenset(group) not in known]
    points = []
    for kind, groups, how in (("duplicates", same, "as the same file"), ("near duplicates", alike, "nearly the same")):
        names = tuple(" = ".join(found.pictures[i].name for i in group) for group in groups)
        about = many(names, "picture", f"is there more than once, {how}", f"are there more than once, {how}")
        points.append(Finding(kind, "warning", about, names, "keep one of each, unless it is to count more"))
    return points
