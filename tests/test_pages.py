"""The pages: every link leads somewhere, and every number in the prose of CIFAR's pages is one of the logs'."""

import re
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from conftest import ROOT
from longtail.logs import load_log
from longtail.losses import LOSSES
from reproduction import jobs, plan
from reproduction.jobs import finished

PAGES = sorted(page for pattern in ("*.md", "[!.]*/*.md", "[!.]*/*/*.md") for page in ROOT.glob(pattern))
CIFAR_PAGES = [ROOT / "CIFAR-LT" / name for name in ("README.md", "DISCUSSION.md")]
WORDS = 6000  # of CIFAR's page and its discussion
SETTINGS = {"0.1", "0.01", "0.5", "1.5", "0.9", "0.9999", "0.4"}  # rates, tau, beta and the like


def without_code(text: str) -> str:
    """A page without its commands: neither links nor results."""
    lines = [line for line in text.split("\n") if not line.startswith("    ")]
    return re.sub(r"`[^`]*`", "", "\n".join(lines))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def written(text: str) -> list[str]:
    """What the script has written into a page, one string for each table."""
    return re.findall(r"<!-- [\w-]+: written by .*?<!-- end of [\w-]+ -->", text, flags=re.DOTALL)


def means(table: str) -> str:
    """A table without what it says of spread: standard deviations and the ends of intervals."""
    return re.sub(r"± [\d.]+|[+-][\d.]+ to [+-][\d.]+", "", table)


def numbers(text: str) -> set[str]:
    """The numbers with a decimal point, without their signs."""
    return set(re.findall(r"(?<![\d.])\d+\.\d+(?![\d.]*\d)", text))


def rounded(number: str) -> set[str]:
    """A number as it is and with one digit after the point."""
    tenths = {str(Decimal(number).quantize(Decimal("0.1"), rounding)) for rounding in (ROUND_HALF_UP, ROUND_HALF_EVEN)}
    return {number, *tenths}


def from_logs() -> set[str]:
    """What the prose may say: the tables' numbers, the paper's, and what follows from either by a formula."""
    found = set()
    for page in [*CIFAR_PAGES, *(ROOT / "CIFAR-LT/results").glob("*.md")]:
        for table in written(page.read_text()) or [page.read_text()]:
            found |= numbers(means(table))
    published = {entry: entry.published for entry in plan.all_entries() if entry.published}
    found |= {f"{accuracy:.2f}" for accuracy in published.values()}
    for entry, accuracy in published.items():
        baseline = published.get(plan.baseline(entry))
        if baseline:
            found.add(f"{accuracy - baseline:.2f}")
    for run in (jobs.RESULTS / "choice").iterdir():
        found.add(f"{100 * load_log(run).best_accuracy:.2f}")
    return found


def computed() -> set[str]:
    """The numbers of the prose that a formula gives."""
    right = np.arange(26)
    share = binom.pmf(right, 25, 0.4)
    weight = (1 - right / 25) ** 2
    mean = share @ weight
    noise = (share @ (weight / mean - 1) ** 2) ** 0.5
    spreads = [np.std([job.figures["accuracy"] for job in finished(entry)], ddof=1) for entry in repeated()]
    return {f"{noise:.2f}", f"{100 * 1.96 * 2**0.5 * max(spreads):.1f}"}


def repeated() -> list[plan.Entry]:
    """The rows of CIFAR with three seeds or more."""
    return [entry for entry in plan.all_entries() if entry.dataset == "cifar100" and len(finished(entry)) > 2]


def weights_in_the_end() -> set[str]:
    """The last weights of girl and plain, classes 35 and 60, of the run that the picture shows."""
    log = load_log(jobs.RESULTS / "cifar100_imbalance200_CDB-CE_1.5_seed0")
    return {f"{log.class_weight[-1][c]:.2f}" for c in (35, 60)}


@pytest.mark.parametrize("page", CIFAR_PAGES, ids=lambda page: page.name)
def test_every_number_of_the_prose_comes_from_the_logs(page):
    prose = page.read_text()
    for table in written(prose):
        prose = prose.replace(table, "")
    quoted = [line for line in prose.split("\n") if line.startswith("|")]  # other papers' accuracies, recipes
    for line in quoted:
        prose = prose.replace(line, "")
    allowed = SETTINGS | computed() | weights_in_the_end() | numbers("\n".join(quoted))
    for number in from_logs():
        allowed |= rounded(number)
    prose = re.sub(r"\]\([^)]*\)", "]", without_code(prose))
    assert numbers(prose) - allowed == set()


def test_every_loss_is_on_the_page():
    assert [loss.name for loss in LOSSES if f"`{loss.name}`" not in CIFAR_PAGES[0].read_text()] == []


def test_the_page_and_its_discussion_can_be_read_in_half_an_hour():
    assert sum(len(page.read_text().split()) for page in CIFAR_PAGES) <= WORDS


def test_dynamic_tau_is_two_where_a_class_is_never_right():
    """As the discussion says: at imbalance 20 and more in the last epoch of every run."""
    ends = {}
    for entry in plan.all_entries():
        if (entry.dataset, entry.loss_type, entry.tau, entry.difficulty) == ("cifar100", "CDB-CE", "dynamic", ""):
            for job in finished(entry):
                ends[job.name] = (entry.imbalance, load_log(job.kept_log).measures["tau"][-1])
    assert {name for name, (imbalance, tau) in ends.items() if imbalance >= 20 and tau < 1.999} == set()


def test_the_fast_recipe_keeps_one_of_its_last_four_epochs():
    fast = [entry for entry in plan.all_entries() if entry.recipe == "fast" and entry.dataset == "cifar100"]
    early = {job.name for entry in fast for job in finished(entry) if load_log(job.kept_log).best_epoch < 27}
    assert early == set()
