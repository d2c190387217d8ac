"""python -m llama_viz is llama-viz."""

import sys

from llama_viz.cli import main

sys.exit(main())
