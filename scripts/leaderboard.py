"""Leaderboards: the user's own finished studies by quality, and models of the Hugging Face hub by popularity.

python scripts/leaderboard.py runs                           rank every run in results/archbench.sqlite
python scripts/leaderboard.py add results/mystudy            add finished studies by hand
python scripts/leaderboard.py export ours.archbench --as-site hospital_a --hash-cases --key-file shared.key
python scripts/leaderboard.py import theirs.archbench        another site's runs beside one's own
python scripts/leaderboard.py hub --tasks image-classification --tags radiology
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path

from archbench.artifacts import write_json, write_text
from archbench.command_line import run
from archbench.config import load_study
from archbench.hub import is_offline
from archbench.leaderboard import BOARDS, HUB_CACHE
from archbench.leaderboard.board_page import render_board, terminal_text
from archbench.leaderboard.database import add_runs, open_database, read_runs
from archbench.leaderboard.exchange import export_runs, import_runs, read_key
from archbench.leaderboard.hub_board import build_board, hub_document, hub_markdown, hub_page, questions_of
from archbench.leaderboard.hub_cache import AnswerCache, answer_to
from archbench.leaderboard.hub_models import Wanted
from archbench.leaderboard.hub_query import Patience, hub_client, hub_endpoint
from archbench.leaderboard.ranking import PairTesting, rank_runs
from archbench.leaderboard.run_board import run_document, run_markdown, run_page
from archbench.leaderboard.study_runs import runs_of
from archbench.settings import Leaderboard

DATABASE = Path("results/archbench.sqlite")
COLUMNS = ("dataset", "task", "study", "model", "site")
SORTS = ("downloads", "likes", "last_modified", "size")
# Options whose defaults are the study's leaderboard.hub.
HUB_LISTS = {
    "tasks": "tasks of the hub, a table each",
    "tags": "tags, of which a model has at least one",
    "searches": "words in a model's name, beside the tags",
    "licences": "licences to keep",
}
HUB_NUMBERS = {
    "min-downloads": "downloads in 30 days from which a model is recommended",
    "recommendations": "recommendations per task at most",
    "limit": "models per question",
    "cache-hours": "hours for which a kept answer is used again",
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{runs,add,export,import,hub}")
    runs = commands.add_parser("runs", help="rank finished runs", allow_abbrev=False)
    _database_option(runs)
    _filters(runs)
    runs.add_argument("--no-phantom", action="store_true", help="leave drawn data out")
    runs.add_argument("--output-dir", type=Path, default=Path(BOARDS), metavar="DIR", help=f"default: {BOARDS}")
    runs.add_argument(
        "--resamples", type=int, default=2000, help="patient draws of a test; 0: no tests (default: 2000)"
    )
    runs.add_argument("--confidence", type=float, default=0.95, help="level of the tests (default: 0.95)")
    runs.add_argument(
        "--key-file", type=Path, metavar="FILE", help="key that case names of other sites are hidden with"
    )
    runs.set_defaults(action=rank)
    add = commands.add_parser("add", help="add finished studies", allow_abbrev=False)
    _database_option(add)
    add.add_argument("results", type=Path, nargs="+", metavar="DIR", help="results/<study>")
    add.set_defaults(action=add_studies)
    _exchange_options(commands)
    _hub_options(commands)
    return parser.parse_args(argv)


def _database_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--database", type=Path, default=DATABASE, metavar="FILE", help=f"default: {DATABASE}")


def _filters(parser: argparse.ArgumentParser) -> None:
    for name in COLUMNS:
        parser.add_argument(f"--{name}", nargs="+", default=[], metavar="NAME", help=f"only this {name}")


def _exchange_options(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    out = commands.add_parser("export", help="write runs to a file for another site", allow_abbrev=False)
    out.add_argument("file", type=Path, help="file to write")
    _database_option(out)
    _filters(out)
    out.add_argument("--as-site", required=True, metavar="NAME", help="name of this site, shown at the other")
    out.add_argument("--hash-cases", action="store_true", help="replace case and patient names by hashes")
    out.add_argument("--key-file", type=Path, metavar="FILE", help="key of the hashes, the same at both sites")
    out.set_defaults(action=export)
    back = commands.add_parser("import", help="add another site's runs", allow_abbrev=False)
    back.add_argument("file", type=Path, help="what the other site exported, or its whole database")
    _database_option(back)
    back.add_argument("--as-site", default="", metavar="NAME", help="where runs were made that don't say it")
    back.set_defaults(action=bring_in)


def _hub_options(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    hub = commands.add_parser("hub", help="rank models of the Hugging Face hub", allow_abbrev=False)
    hub.add_argument("--study", type=Path, metavar="FILE", help="study whose leaderboard.hub gives the defaults")
    for name, what in HUB_LISTS.items():
        hub.add_argument(f"--{name}", nargs="*", metavar="NAME", help=what)
    for name, what in HUB_NUMBERS.items():
        kind = float if name == "cache-hours" else int
        hub.add_argument(f"--{name}", type=kind, metavar="N", help=what)
    hub.add_argument("--authors", nargs="+", default=[], metavar="NAME", help="only models of these, beside tags")
    hub.add_argument("--models", nargs="+", default=[], metavar="ID", help="models to look up by name, with file sizes")
    hub.add_argument("--sort", choices=SORTS, default="downloads", help="order of questions and tables")
    hub.add_argument("--min-likes", type=int, default=0, metavar="N", help="likes that a model needs")
    hub.add_argument("--max-size-mib", type=float, metavar="N", help="largest weights")
    hub.add_argument("--changed-since", type=datetime.fromisoformat, metavar="DAY", help="such as 2026-01-31")
    hub.add_argument("--offline", action="store_true", help="ask nothing; show the answers that are kept, however old")
    hub.add_argument("--refresh", action="store_true", help="ask although fresh answers are kept")
    hub.add_argument("--cache-dir", type=Path, default=Path(HUB_CACHE), metavar="DIR", help=f"default: {HUB_CACHE}")
    hub.add_argument("--timeout", type=float, default=20.0, metavar="S", help="seconds without a byte (default: 20)")
    hub.add_argument("--retries", type=int, default=2, metavar="N", help="requests after the first (default: 2)")
    hub.add_argument("--max-wait", type=float, default=60.0, metavar="S", help="longest rate limit (default: 60)")
    hub.add_argument("--output-dir", type=Path, default=Path(BOARDS), metavar="DIR", help=f"default: {BOARDS}")
    hub.set_defaults(action=look_at_hub)


def main(argv: list[str] | None = None) -> int:
    """Do what the first word says."""
    args = parse(argv)
    return int(args.action(args))


def wanted(args: argparse.Namespace) -> dict[str, list[str]]:
    """Which runs were asked for."""
    return {name: getattr(args, name) for name in COLUMNS}


def rank(args: argparse.Namespace) -> int:
    """Write runs.html, runs.json and runs.md."""
    if str(args.database) == ".":
        raise ValueError("the study keeps no results database (leaderboard.database: off): name one with --database")
    keys = (b"", read_key(args.key_file)) if args.key_file else (b"",)
    with open_database(args.database) as connection:
        found = [entry for entry in read_runs(connection, wanted(args)) if not (args.no_phantom and entry.phantom)]
    groups = rank_runs(found, PairTesting(resamples=args.resamples, confidence=args.confidence, keys=keys))
    name = args.database.as_posix()
    write_json(args.output_dir / "runs.json", run_document(groups, database=name))
    text = run_markdown(groups, database=name)
    write_text(args.output_dir / "runs.md", text)
    write_text(args.output_dir / "runs.html", render_board(run_page(groups, database=name)))
    print(f"{terminal_text(text)}\nPage: {args.output_dir / 'runs.html'}")
    return 0


def add_studies(args: argparse.Namespace) -> int:
    """Add studies by hand; 1 if a folder holds none."""
    failed = 0
    for folder in args.results:
        try:
            found = runs_of(folder)
        except ValueError as error:
            failed += 1
            print(f"{folder}: {error}", file=sys.stderr)
            continue
        for text in found.left_out:
            print(f"{folder}: left out {text}", file=sys.stderr)
        with open_database(args.database, write=True) as connection:
            new, known = add_runs(connection, found.runs)
        print(f"{folder}: {new} runs added to {args.database}, {known} were there already")
    return int(bool(failed))


def export(args: argparse.Namespace) -> int:
    """Write the chosen runs to a file."""
    if args.key_file and not args.hash_cases:
        raise ValueError("--key-file hides names only together with --hash-cases")
    key = None
    if args.hash_cases:
        key = read_key(args.key_file) if args.key_file else b""
    runs = export_runs(args.database, args.file, site=args.as_site, wanted=wanted(args), key=key)
    plain = sum(entry.hashed_with is None for entry in runs)
    print(f"{len(runs)} runs written to {args.file}")
    if plain:
        print(f"{plain} of them hold case and patient names as they are; --hash-cases hides them", file=sys.stderr)
    elif key == b"":
        print("names hashed without a key can be guessed from a list of names; see --key-file", file=sys.stderr)
    return 0


def bring_in(args: argparse.Namespace) -> int:
    """Add the runs of a file; 1 if any was refused."""
    done = import_runs(args.database, args.file, site=args.as_site)
    for text in done.refused:
        print(f"refused {text}", file=sys.stderr)
    print(f"{done.new} runs added to {args.database}, {done.known} were there already, {len(done.refused)} refused")
    return int(bool(done.refused))


def look_at_hub(args: argparse.Namespace) -> int:
    """Write hub.html, hub.json and hub.md; nothing is written if any question stays unanswered."""
    defaults = load_study(args.study).leaderboard.hub if args.study else Leaderboard().hub
    told = {name: getattr(args, name) for name in map(_key, [*HUB_LISTS, *HUB_NUMBERS])}
    told = {name: value for name, value in told.items() if value is not None}
    settings = type(defaults).model_validate({**defaults.model_dump(), **told})
    questions = questions_of(
        tasks=settings.tasks,
        tags=settings.tags,
        searches=settings.searches,
        authors=args.authors,
        models=args.models,
        sort=args.sort,
        limit=settings.limit,
    )
    cache = AnswerCache(args.cache_dir, hub_endpoint(), hours=settings.cache_hours)
    offline = args.offline or is_offline()
    with hub_client(Patience(timeout_s=args.timeout, retries=args.retries, max_wait_s=args.max_wait)) as client:
        answers = {
            question: answer_to(question, cache, client.ask, offline=offline, refresh=args.refresh)
            for question in questions
        }
    board = build_board(
        answers,
        endpoint=hub_endpoint(),
        wanted=Wanted(settings.licences, args.min_likes, args.max_size_mib, args.changed_since),
        sort=args.sort,
        min_downloads=settings.min_downloads,
        recommendations=settings.recommendations,
    )
    text = hub_markdown(board)
    write_json(args.output_dir / "hub.json", hub_document(board))
    write_text(args.output_dir / "hub.md", text)
    write_text(args.output_dir / "hub.html", render_board(hub_page(board)))
    print(f"{terminal_text(text)}\nPage: {args.output_dir / 'hub.html'}")
    return 0


def _key(option: str) -> str:
    return option.replace("-", "_")


if __name__ == "__main__":
    run(main)
