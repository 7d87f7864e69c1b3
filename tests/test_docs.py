"""What README and docs say of files, commands and options is there; nothing of torch is needed."""

import ast
import functools
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs/mmkd'
PAGES = sorted(
    path
    for path in [
        *ROOT.glob('*.md'),
        *(ROOT / 'docs').rglob('*.md'),
        *(ROOT / 'configs').rglob('*.md'),
    ]
    if path.parent.parent != ROOT / 'docs/studies'  # those are written by tools/study.py
)
METAFILES = sorted((CONFIGS / 'metafiles').glob('*.yml'))
SKIPPED = {'data', 'work_dirs', 'site', 'build'}
FILES = {
    path.name
    for top in ROOT.iterdir()
    if top.name not in SKIPPED and not (top.is_dir() and top.name.startswith('.'))
    for path in ([top] if top.is_file() else top.rglob('*'))
}
# What a user's project has, and what the tools write.
OF_USERS = re.compile(r'^my_|^student1\.py$|^report\.(md|html)$|[A-Z]{3}')


def name_of(path):
    return str(path.relative_to(ROOT))


def prose(path):
    """A page without its fenced blocks of code."""
    return re.sub(r'(?ms)^```.*?^```$', '', path.read_text())


def anchors(path):
    """The headings' anchors as MkDocs makes them."""
    titles = re.findall(r'(?m)^#+ (.+)$', prose(path))
    return {re.sub(r'[\s-]+', '-', re.sub(r'[^\w\s-]', '', t).strip().lower()) for t in titles}


def links(path):
    return re.findall(r'\]\(([^)\s]+)\)', prose(path))


def codes(path):
    """The pieces of code in running text."""
    return re.findall(r'`([^`\n]+)`', prose(path))


def commands():
    """Lines of shell code on all pages: those of fenced blocks, and those in running text."""
    for path in PAGES:
        for block in re.findall(r'(?ms)^```bash$(.*?)^```$', path.read_text()):
            for line in block.strip().splitlines():
                yield path, line.split(' #')[0].strip()
        for code in codes(path):
            if re.match(r'(python|bash|sbatch|pip|docker|mkdocs) ', code):
                yield path, code


@functools.cache
def options_of(tool):
    """The options that a tool names: in its help (and its subcommands'), or in a shell script."""
    path = ROOT / tool
    if path.suffix == '.sh':
        return set(re.findall(r'--[a-z][\w-]*', path.read_text()))
    helps = [[], ['run'], ['status'], ['report']] if path.stem == 'study' else [[]]
    found = set()
    for subcommand in helps:
        done = subprocess.run(
            [sys.executable, path, *subcommand, '--help'], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found |= set(re.findall(r'--[a-z][\w-]*', done.stdout))
    return found


def test_there_are_pages():
    names = {name_of(path) for path in PAGES}
    assert {'README.md', 'CONTRIBUTING.md', 'docs/concepts.md', 'docs/methods/kdml.md'} <= names


@pytest.mark.parametrize('path', PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    for link in links(path):
        if link.startswith(('https://', 'mailto:')):
            continue
        target, _, anchor = link.partition('#')
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), f'{name_of(path)}: {link}'
        if anchor:
            assert anchor in anchors(file), f'{name_of(path)}: {link}'


@pytest.mark.parametrize('path', PAGES, ids=name_of)
def test_files_that_are_named_exist(path):
    for code in codes(path):
        for word in re.findall(r'[\w./*-]+', code.replace('mmkd::', 'configs/')):
            if re.match(r'(configs|tools|docs|mmkd|tests|docker|requirements)/', word):
                if not OF_USERS.search(word) and '...' not in word:
                    found = list(ROOT.glob(word.rstrip('/.')))
                    # Groups of modules may be named by the folder that they share.
                    assert found, f'{name_of(path)}: {word}'
            elif re.fullmatch(r'\w+\.(py|sh|md|yml|cff|toml)', word):
                assert OF_USERS.search(word) or word in FILES, f'{name_of(path)}: {word}'
            elif re.fullmatch(r'[a-z0-9_/]+_\*(\.py)?|[a-z0-9_]+\*\.py', word):
                assert list(CONFIGS.glob(word)), f'{name_of(path)}: {word}'


def test_commands_name_tools_and_options_that_exist():
    checked = 0
    for path, line in commands():
        tools = re.findall(r'(?:^|\s)(tools/[\w.]+)', line)
        for tool in tools:
            assert (ROOT / tool).is_file(), f'{name_of(path)}: {line}'
        scripts = [word for word in line.split() if re.match(r'(configs|docs|tests)/\S+$', word)]
        for word in scripts:
            if not OF_USERS.search(word):
                assert (ROOT / word).exists(), f'{name_of(path)}: {line}'
        if not tools:
            continue
        own = line.split(tools[0], 1)[1]  # what stands before is another program's
        for option in re.findall(r'(?<!\S)--[a-z][\w-]*', own):
            assert option in options_of(tools[0]), f'{name_of(path)}: {line}: {option}'
            checked += 1
    assert checked >= 2


def test_options_in_tables_of_tools_exist():
    rows = [
        row for path in PAGES for row in prose(path).splitlines() if row.startswith('| `tools/')
    ]
    checked = 0
    for row in rows:
        tools = re.findall(r'tools/[\w.]+', row)
        assert all((ROOT / tool).is_file() for tool in tools), row
        for option in re.findall(r'(?<=`)--[a-z][\w-]*', row):
            assert any(option in options_of(tool) for tool in tools), f'{row}: {option}'
            checked += 1
    assert checked >= 8


def test_every_config_is_on_the_page_of_a_method():
    text = ''.join(path.read_text() for path in (ROOT / 'docs/methods').glob('*.md'))
    forms = set(re.findall(r'\w+(?=\.py)', text))
    for path in sorted(CONFIGS.glob('*.py')):
        base = re.sub(r'_cpu$', '', path.stem)  # 'each has a `_cpu` form'
        assert path.stem in forms or base in forms, path.name


def assigned(path, name):
    """The literal that a module assigns to `name`, without importing it."""
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f'{path} has no {name}')


def test_the_presets_and_schedules_of_the_concepts_are_the_real_ones():
    sharing = 'mmkd/models/distillers/sharing.py'
    presets = [*assigned(sharing, 'PRESETS'), *assigned(sharing, 'UNLABELED_PRESETS')]
    concepts = (ROOT / 'docs/concepts.md').read_text()
    tables = re.findall(r'(?ms)^\| preset \|.*?\n\n', concepts)
    named = [
        name
        for row in ''.join(tables).splitlines()
        for name in re.findall(r'`(\w+)`', row.split('|')[1] if '|' in row else '')
    ]
    assert sorted(named) == sorted(presets)
    assert len(presets) == 16 and 'sixteen presets' in (ROOT / 'README.md').read_text()
    schedules = set(assigned('mmkd/schedules/__init__.py', '__all__')) - {'Schedule', 'Ramp'}
    table = re.search(r'(?ms)^\*\*schedule\*\*.*?\n\n(\|.*?)\n\n', concepts).group(1)
    assert set(re.findall(r'`([A-Z]\w+)`', table)) == schedules


def test_the_context_that_is_written_down_is_the_real_one():
    body = ast.parse((ROOT / 'mmkd/models/distillers/context.py').read_text()).body
    (context,) = [n for n in body if isinstance(n, ast.ClassDef) and n.name == 'LinkContext']
    fields = {n.target.id for n in context.body if isinstance(n, ast.AnnAssign)}
    text = (ROOT / 'docs/write_your_own.md').read_text()
    sentence = re.search(r'(?s)any part of\n(.*?)\(\[LinkContext', text).group(1)
    assert set(re.findall(r'`(\w+)`', sentence)) == fields


def test_every_example_is_shown():
    text = (ROOT / 'docs/write_your_own.md').read_text()
    shown = set(re.findall(r'--8<-- "(.+?)"', text))
    assert shown == {name_of(path) for path in (ROOT / 'docs/examples').glob('*.py')}


# ---------------------------------------------------------------- metafiles


def test_the_model_index_imports_every_metafile():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert sorted(index['Import']) == [name_of(path) for path in METAFILES]


def test_every_config_has_a_metafile_entry():
    entries = [yaml.safe_load(path.read_text())['Models'] for path in METAFILES]
    configs = [model['Config'] for model in itertools.chain(*entries)]
    assert sorted(configs) == sorted(name_of(path) for path in CONFIGS.glob('*.py'))


@pytest.mark.parametrize('path', METAFILES, ids=lambda p: p.stem)
def test_results_of_a_metafile_are_those_of_its_page(path):
    meta = yaml.safe_load(path.read_text())
    (collection,) = meta['Collections']
    pages = collection['README'], 'docs/methods/earlier.md', 'docs/quickstart.md'
    text = ' '.join((ROOT / page).read_text() for page in pages)
    figures = {float(number) for number in re.findall(r'\d+\.\d+', text)}
    for model in meta['Models']:
        assert model['In Collection'] == collection['Name']
        for result in model.get('Results', []):
            for metric, value in result['Metrics'].items():
                assert value in figures, f'{model["Name"]}: {metric} {value}'


def test_half_of_the_80_columns_of_mim_search_is_left_for_values():
    """One table of all models: a long name of a result would cut every value away."""
    results = [
        result
        for path in METAFILES
        for model in yaml.safe_load(path.read_text())['Models']
        for result in model.get('Results', [])
    ]
    names = [f'{result["Dataset"]}/{metric}' for result in results for metric in result['Metrics']]
    assert max(map(len, names)) + 2 <= 40


def test_the_citation_has_the_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == assigned('mmkd/version.py', '__version__')
    assert f'## {citation["version"]}' in (ROOT / 'CHANGELOG.md').read_text()


def test_examples_are_a_section_that_the_reference_knows():
    named = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / 'mmkd').rglob('*.py'))
        if re.search(r'(?m)^ *Example:$', path.read_text())
    ]
    assert not named, "mkdocstrings shows 'Examples:' as code, 'Example:' as a quotation"


def test_the_check_of_the_documentation_sees_warnings():
    (command,) = re.findall(r'mkdocs build.*', (ROOT / 'tools/run_tests.sh').read_text())
    assert '--strict' in command and '--quiet' not in command
