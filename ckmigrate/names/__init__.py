"""Name patterns: the only place that reads them, matches them and fills them in.

A pattern describes whole names, segment by segment between dots; nothing is a substring match.

    transformer.**                   any number of whole segments, also none; named: {rest:**}
    blocks.{i}.attn.{p}              {i} and {p}: one or more characters inside one segment
    block{i:int}_w                   digits only, without leading zeros (18 digits at most)
    *.running_mean                   like {i}, without a name
    attn.{q,k,v}.weight              ordered alternatives: word characters and '-', also nothing
    blocks.{i+1}.weight              on the target side: an integer capture, shifted

A capture that stands twice in one pattern is the same text both times. Where a name can be read in
several ways, the leftmost wildcard takes as little as possible and the leftmost alternative is the
one listed first, as far as the rest still fits: `{a}_{b}` reads `x_y_z` as a=x, b=y_z.

Captures map text to text: named ones under their name; the n-th anonymous wildcard (from zero)
under "*n"; the n-th group of alternatives under "{n}", as the position of the one that was found.
That is how the two sides of a rename are paired. `**` over no segments at all captures "".
A name with a pattern character (one of `{ } *`), an empty segment, or none, needs a `re.Pattern`.

A compiled `re.Pattern` must match the full name; its named groups are the captures. Python cannot
interrupt a regular expression, so it runs in a child process, half a second of processor time per
name, and is refused (CKM502) when that is not enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckmigrate.lazily import lazily

__all__ = [
    "Captures",
    "Group",
    "Match",
    "Pattern",
    "PatternLike",
    "StackGroup",
    "compile_pattern",
    "expand",
    "groups",
    "natural_key",
    "nearest",
    "pair",
    "select",
    "stack_groups",
    "substitute",
]

if TYPE_CHECKING:
    from ckmigrate.names.compiling import compile_pattern, expand
    from ckmigrate.names.filling import substitute
    from ckmigrate.names.grouping import Group, StackGroup, groups, stack_groups
    from ckmigrate.names.likeness import nearest
    from ckmigrate.names.matching import Match, select
    from ckmigrate.names.order import natural_key
    from ckmigrate.names.pattern import Captures, Pattern, PatternLike
    from ckmigrate.names.renaming import pair
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "Captures": "ckmigrate.names.pattern",
            "Group": "ckmigrate.names.grouping",
            "Match": "ckmigrate.names.matching",
            "Pattern": "ckmigrate.names.pattern",
            "PatternLike": "ckmigrate.names.pattern",
            "StackGroup": "ckmigrate.names.grouping",
            "compile_pattern": "ckmigrate.names.compiling",
            "expand": "ckmigrate.names.compiling",
            "groups": "ckmigrate.names.grouping",
            "natural_key": "ckmigrate.names.order",
            "nearest": "ckmigrate.names.likeness",
            "pair": "ckmigrate.names.renaming",
            "select": "ckmigrate.names.matching",
            "stack_groups": "ckmigrate.names.grouping",
            "substitute": "ckmigrate.names.filling",
        },
    )
