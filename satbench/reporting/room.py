"""What a page of a leaderboard has room for, so that one of 1,000 models stays under 3 MB.

The libraries and the tables are always there. Outcomes image by image are on the page for all models or for none;
details and pictures for those that come first in its lists. The rest is in the files of the runs.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MOST_BYTES = 2_900_000  # of a page
PICTURES = "examples"  # the part of a detail
KEPT = ("network", "downloads")  # of details for which there is no room
Detail = Mapping[str, Any]
Cards = Sequence[Mapping[str, Any]]


def fitted(
    cards: Cards, outcomes: Mapping[str, Any], room: int
) -> tuple[list[dict[str, Any]], Mapping[str, Any] | None]:
    """Cards and outcomes as they fit into `room` characters of JSON.

    What is always there comes first. Outcomes take at most half of the rest, else they are None; details take two
    thirds of what is left then, and pictures what these leave. The field `left_out` of a detail is "details" or
    "pictures", where there is no room for these.
    """
    room = max(0, room - _size(_limited(cards, -1, dict, _reduced)[0]))
    size = _size(outcomes)
    kept = outcomes if size <= room // 2 else None
    room -= size if kept is not None else 0
    described, left = _limited(cards, 2 * room // 3, _without_pictures, _reduced)
    shown, _ = _limited(described, room - 2 * room // 3 + left, _pictures, _without_pictures)
    return shown, kept


def _limited(
    cards: Cards, room: int, counted: Callable[[Detail], Detail], reduced: Callable[[Detail], dict[str, Any]]
) -> tuple[list[dict[str, Any]], int]:
    """The cards, with details `reduced` from the first on whose `counted` part has no room, and what room is left."""
    found, is_full = [], False
    for card in cards:
        details = []
        for detail in card.get("details", ()):
            size = _size(counted(detail))
            is_full = is_full or size > room
            room -= 0 if is_full else size
            details.append(reduced(detail) if is_full else detail)
        found.append({**card, "details": details} if details else dict(card))
    return found, room


def _pictures(detail: Detail) -> dict[str, Any]:
    return {name: value for name, value in detail.items() if name == PICTURES}


def _without_pictures(detail: Detail) -> dict[str, Any]:
    others = {name: value for name, value in detail.items() if name != PICTURES}
    return others | {"left_out": "pictures"} if PICTURES in detail else others


def _reduced(detail: Detail) -> dict[str, Any]:
    return {name: detail[name] for name in KEPT if name in detail} | {"left_out": "details"}


def _size(value: object) -> int:
    return len(json.dumps(value, separators=(",", ":")))
