"""Objects that keep values of every shape, and a training that changes them.

    one = Enums()
    one.train()

`SHAPES` has a class for each; `use`, where there is one, does what needs the very
objects that training left.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import pathlib
import random
import types
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Phase(enum.Enum):
    WARMUP = "warmup"
    MAIN = "main"
    LAST = ("more", "words")


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Switch(enum.Flag):
    A = enum.auto()
    B = enum.auto()
    C = enum.auto()


@dataclasses.dataclass(frozen=True)
class Setting:
    rate: float
    name: str = "plain"


@dataclasses.dataclass
class Record:
    loss: float
    setting: Setting = dataclasses.field(default_factory=lambda: Setting(0.5))
    tags: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.tags.append("made by the program")


@dataclasses.dataclass(slots=True)
class Slotted:
    count: int = 0
    best: float | None = None


class Pair(NamedTuple):
    step: int
    loss: float


class Name(str):
    def __init__(self, value: str) -> None:
        self.origin = "program"


class Count(int):
    pass


class Rows(list):
    pass


class Stats:
    """A plain object of the user's."""

    def __init__(self) -> None:
        self.count = 0
        self.names = {"a": [1]}

    def add(self) -> None:
        self.count += 1
        self.names.setdefault("b", []).append(self.count)


DEFAULT = Setting(0.1)
OTHER = Setting(0.2)
SHARED = {"seen": 0}


class Enums:
    def __init__(self) -> None:
        self.phase, self.level, self.switch = Phase.WARMUP, Level.LOW, Switch.A
        self.by_phase: dict[Phase, int] = {Phase.WARMUP: 1}
        self.phases = [Phase.WARMUP]
        self.maybe: Phase | None = None

    def train(self) -> None:
        self.phase, self.level = Phase.MAIN, Level.HIGH
        self.switch = Switch.A | Switch.C
        self.none = Switch(0)
        self.by_phase[Phase.MAIN] = 2
        self.phases += [Phase.MAIN, Phase.LAST]
        self.maybe = Phase.LAST


class FrozenDefault:
    def __init__(self) -> None:
        self.setting = DEFAULT
        self.settings = [DEFAULT, OTHER]

    def train(self) -> None:
        self.setting = dataclasses.replace(self.setting, rate=0.01)
        self.settings = [OTHER, Setting(0.3)]


class Dataclasses:
    def __init__(self) -> None:
        self.best: Record | None = None
        self.records: list[Record] = []
        self.first = Record(9.0)
        self.slotted = Slotted()

    def train(self) -> None:
        self.best = Record(0.1, Setting(0.2, "best"))
        self.records.append(Record(1.0))
        self.records.append(self.best)
        self.first.loss = 0.5
        self.first.tags.append("seen")
        self.slotted.count += 1
        self.slotted.best = 0.5


class BackToNone:
    def __init__(self) -> None:
        self.value: Any = Record(1.0)
        self.deleted = 3
        self.kept = 4

    def train(self) -> None:
        self.value = None
        if hasattr(self, "deleted"):
            del self.deleted


class Defaultdicts:
    def __init__(self) -> None:
        self.nested: Any = collections.defaultdict(
            lambda: collections.defaultdict(lambda: [0])
        )
        self.partial: Any = collections.defaultdict(
            functools.partial(collections.defaultdict, int)
        )
        self.plain: Any = collections.defaultdict(list)
        self.of_stats: Any = collections.defaultdict(Slotted)
        self.later: Any = None

    def train(self) -> None:
        self.nested["a"]["b"][0] += 1
        self.partial["a"]["b"] += 2
        self.plain["x"].append(1)
        self.of_stats["x"].count += 1
        self.later = collections.defaultdict(lambda: collections.defaultdict(float))
        self.later = collections.defaultdict(dict, {"a": {"b": 1.0}})

    def use(self) -> None:
        self.nested["new"]["c"][0] += 1
        self.nested["a"]["c"][0] += 1
        self.partial["new"]["c"] += 1
        self.plain["y"].append(1)
        self.of_stats["y"].count += 1
        self.later["z"]["b"] = 2.0


class Collections:
    def __init__(self) -> None:
        self.recent: Any = collections.deque([1], maxlen=3)
        self.counter: Any = collections.Counter("ab")
        self.ordered: Any = collections.OrderedDict(a=1)
        self.sets = {1, 8, 0}
        self.names = {"b", "a"}
        self.bag = types.SimpleNamespace(x=1)
        self.pair, self.pairs = Pair(0, 0.0), []

    def train(self) -> None:
        self.recent.extend([2, 3, 4])
        self.counter.update("abc")
        self.ordered["b"] = self.ordered.pop("a", 2)
        self.sets |= {16, 3}
        self.names |= {"other", "c"}
        self.bytes = {b"1", b"333", b"22"}
        self.bag.x, self.bag.y = 2, [3]
        self.pair = Pair(3, 0.25)
        self.pairs.append(Pair(1, 0.5))
        self.new = collections.deque([1], maxlen=2)
        self.nested = {"a": ({"b": [frozenset({1, 2})]}, 2)}
        self.array = bytearray(b"abc")


class Numbers:
    def __init__(self) -> None:
        self.value: Any = None

    def train(self) -> None:
        self.value = [
            True,
            1 << 200,
            -0.0,
            float("inf"),
            1e-320,
            1 - 2j,
            "\udc80",
            b"\0",
        ]
        self.nan = float("nan")
        self.dates = [
            datetime.datetime(2020, 1, 2, 3, 4, 5, 6, datetime.timezone.utc, fold=1),
            datetime.date(2020, 1, 2),
            datetime.time(1, 2),
            datetime.timedelta(-1, 2, 3),
        ]
        self.exact = [decimal.Decimal("1.50"), fractions.Fraction(1, 3)]
        self.exact.append(decimal.Decimal("-1E+99"))
        self.ranges = [range(1, 9, 2), slice(1, None, 2)]
        self.paths = [pathlib.Path("a") / "b", pathlib.PureWindowsPath("c:\\x")]
        self.name, self.count = Name("x"), Count(3)
        self.name.origin = "training"
        self.rows = Rows([1, 2])
        self.number_type = np.float32


class Arrays:
    def __init__(self) -> None:
        self.weights = np.zeros((2, 3), np.float32)
        self.alias = self.weights
        self.best: Any = None

    def train(self) -> None:
        self.weights[0] = 1.5
        self.best = [np.arange(6).reshape(2, 3).T, np.array(["ab", "c"]), np.array([])]
        self.same = self.best[0]
        self.types = [
            np.array([1, 2], ">f4"),
            np.array(["2020-01-01"], "M8[D]"),
            np.timedelta64(3, "s"),
            np.float16(1.5),
            np.array([b"x", b"yy"]),
            np.asarray(tf.constant([1.5], tf.bfloat16)),
            np.array(3.0),
            np.bool_(True),
        ]
        self.tensors = [
            tf.constant([1.5], tf.bfloat16),
            tf.constant(["a", "bc"]),
            tf.ragged.constant([[1, 2], [3]]),
            tf.sparse.from_dense([[0, 1], [2, 0]]),
            tf.constant(True),
        ]

    def use(self) -> None:
        self.alias[1] = 7.0
        self.same[0, 0] = 9


class Aliases:
    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.again = self.rows
        self.stats = Stats()
        self.owner: Any = None

    def train(self) -> None:
        self.rows.append(1)
        self.new = {"a": []}
        self.other = [self.new, self.new["a"]]
        self.stats.add()
        self.stats.owner = self
        self.linked = self.rows

    def use(self) -> None:
        self.again.append(2)
        self.other[1].append("x")
        self.stats.add()
        self.linked.append(3)


class Objects:
    def __init__(self) -> None:
        self.stats = [Stats(), Stats()]
        self.inner = {"a": Stats()}
        self.schedule = functools.partial(max, 3)
        self.swapped = [Stats(), Stats()]
        self.global_counts = SHARED

    def train(self) -> None:
        self.stats[1].add()
        self.inner["a"].add()
        self.swapped[0].add()
        self.swapped.reverse()
        self.global_counts["seen"] += 1


class Generators:
    def __init__(self) -> None:
        self.random = random.Random(1)
        self.numpy = np.random.default_rng(1)
        self.legacy = np.random.RandomState(1)
        self.philox = np.random.Generator(np.random.Philox(3))
        self.later: Any = None
        self.variable = tf.Variable(1.0)
        self.metric = tf.keras.metrics.Mean()

    def train(self) -> None:
        self.random.gauss(0, 1)
        self.numpy.integers(3, dtype=np.uint32)
        self.legacy.normal()
        self.philox.normal()
        self.later = np.random.Generator(np.random.SFC64(2))
        self.also = random.Random(5)
        self.variable.assign_add(2.0)
        self.metric.update_state(3.0)


class Functions:
    def __init__(self) -> None:
        self.compare: Any = None
        self.score = max
        self.own = self.higher
        self.mixed: dict[str, Any] = {"f": len, "g": lambda x: x, "n": 0}

    def higher(self) -> None:
        """Nothing."""

    def train(self) -> None:
        self.compare = np.less
        self.score = min
        self.mixed["n"] += 1


class FlagThatIsReset:
    """What a save found unchanged, and the next process has changed before it."""

    def __init__(self) -> None:
        self.is_first, self.step = False, 0

    def train(self) -> None:
        self.step += 1

    def begin(self) -> None:
        self.is_first = True


SHAPES = [
    Enums,
    FrozenDefault,
    Dataclasses,
    BackToNone,
    Defaultdicts,
    Collections,
    Numbers,
    Arrays,
    Aliases,
    Objects,
    Generators,
    Functions,
]
