"""Runs the corpus with several runtimes and says where they differ.

What differs without being named in differences.toml, or is not what a case expects, fails. Facts are first freed of what differs
by nature: names of the container, its bundle, inode numbers of namespaces.
"""
import os
import re
import tomllib

from bundle import Container, Refused
from cases import CASES

HERE = os.path.dirname(os.path.abspath(__file__))
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
HOST = {k: os.readlink(f"/proc/self/ns/{k}") for k in NAMESPACES}


def normal(facts, container):
    out = {}
    for name, value in facts.items():
        name = name.replace(container.bundle, "BUNDLE").replace(container.id, "ID")
        value = str(value).replace(container.bundle, "BUNDLE").replace(container.id, "ID")
        if name.startswith("ns.") and value.endswith("]"):
            value = "host" if value == HOST.get(name[3:]) else "own"
        value = re.sub(r"root=\S*/BUNDLE", "root=BUNDLE", re.sub(r"root=/\S*?/(ID)\b", r"root=\1", value))
        value = re.sub(r"(pipe|socket|anon_inode|mnt|net|ipc):\[?\d*\]?", r"\1:", value)
        value = re.sub(r"\b(uid_map|size)=\s+", r"\1=", re.sub(r"  +", " ", value))
        if name.startswith("cgroup."):
            value = re.sub(r"/\S*ID\S*", "/OWN", value)
        out[name] = value
    return out


def run_case(case, runtime, program, scratch, view):
    """(facts, None) or (None, why not)."""
    container = Container(runtime, program, scratch, view)
    try:
        return normal(case["run"](container), container), None
    except Refused as e:
        return None, f"{e}"[:300].replace(container.bundle, "BUNDLE").replace(container.id, "ID")
    except Exception as e:  # a case must not end the others
        return None, f"{type(e).__name__}: {e}"[:300].replace(container.bundle, "BUNDLE").replace(container.id, "ID")
    finally:
        container.end()


def unmet(case, facts):
    """The expectations that facts do not meet."""
    bad = []
    for name, want in case["expect"].items():
        got = facts.get(name)
        if got is None:
            bad.append(f"{name} is absent, must be {want}")
        elif want.startswith("~"):
            if not re.search(want[1:], got):
                bad.append(f"{name} is \"{got}\", must match {want[1:]}")
        elif got != want:
            bad.append(f"{name} is \"{got}\", must be \"{want}\"")
    return bad


class Differences:
    def __init__(self):
        with open(os.path.join(HERE, "differences.toml"), "rb") as f:
            self.entries = tomllib.load(f)["difference"]
        for entry in self.entries:
            entry["used"] = False
            assert entry["why"]

    def find(self, case, fact, peer, view):
        for entry in self.entries:
            if (re.fullmatch(entry.get("case", ".*"), case) and re.fullmatch(entry["fact"], fact) and peer in entry["peers"]
                    and view in entry.get("views", ["v1", "v2"])):
                entry["used"] = True
                return entry["why"]
        return None


def corpus(view, runtimes, scratch, wanted, verbose=False):
    """Prints a line a case. runtimes: name to program, the first is the one under test. Returns (cases, failures, named)."""
    differences = Differences()
    first, *peers = runtimes
    count, failures, named = 0, [], []
    for case in CASES:
        if wanted and case["name"] not in wanted or case["only"] not in (None, view):
            continue
        why_not = case["host"]() if case["host"] else ""
        if why_not:
            print(f"{view} {case['name']:<44} skip   {why_not}")
            continue
        count += 1
        found = {name: run_case(case, name, program, scratch, view) for name, program in runtimes.items()}
        facts, error = found[first]
        problems = [f"does not run: {error}"] if error else unmet(case, facts)
        words = []
        for peer in peers:
            other, other_error = found[peer]
            if facts is None:
                words.append(f"{peer}: {'the same' if other_error else 'runs'}")
                continue
            if other_error:
                differing = {"(runs)": ("yes", other_error)}
            else:
                compared = re.compile(case["facts"] or ".")
                names = {n for n in set(facts) | set(other) if compared.search(n)}
                differing = {n: (facts.get(n, "absent"), other.get(n, "absent")) for n in sorted(names) if facts.get(n) != other.get(n)}
            unnamed = []
            for name, (ours, theirs) in differing.items():
                why = differences.find(case["name"], name, peer, view)
                if why:
                    named.append((view, case["name"], peer, name, ours, theirs, why))
                else:
                    unnamed.append(f"{name}: {first} \"{ours}\", {peer} \"{theirs}\"")
            problems += [f"differs from {peer} without a reason: {text}" for text in unnamed]
            words.append(f"{peer}: {'equal' if not differing else f'{len(differing)} named differences'}")
        print(f"{view} {case['name']:<44} {'FAIL' if problems else 'ok  '}   {', '.join(words)}", flush=True)
        for problem in problems:
            print(f"      {problem}")
        failures += [f"{view} {case['name']}: {p}" for p in problems]
    return count, failures, named, differences
