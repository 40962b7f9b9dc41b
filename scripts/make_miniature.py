"""Write the miniature models into OUT/sd and OUT/blip, unless they are there. Usage: make_miniature.py OUT"""

import sys
from pathlib import Path

from lora_engine.miniature import make_blip, make_stable_diffusion

if __name__ == "__main__":
    out = Path(sys.argv[1])
    for name, make in (("sd", make_stable_diffusion), ("blip", make_blip)):
        done = out / f"{name}.done"
        if not done.exists():
            make(out / name)
            done.touch()
