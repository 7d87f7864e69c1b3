"""Run one of mmkd's tools from any folder: `mmkd TOOL ...`, or `python -m mmkd TOOL ...`."""

import runpy
import sys

from mmkd.utils.tools import tool_path, tools_folder


def main() -> None:
    """Run the tool that the command line names, with what follows its name."""
    names = sorted(path.stem for path in tools_folder().glob('*.py'))
    name = sys.argv[1] if len(sys.argv) > 1 else ''
    if name not in names:
        asked = name in ('-h', '--help')
        text = (
            f'usage: mmkd TOOL ..., or python -m mmkd TOOL ...; TOOL is one of {", ".join(names)}'
        )
        if name and not asked:
            text += f'\nmmkd: error: no tool {name!r}'
        print(text, file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    sys.argv = [str(tool_path(name)), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name='__main__')


if __name__ == '__main__':
    main()
