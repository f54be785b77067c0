"""What is deferred is imported by nothing that trains, and works as soon as somebody asks for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DEFERRED = ("wandb", "scipy.optimize", "scipy.stats", "deepspeed", "torch._dynamo", "torch.fx.experimental.symbolic_shapes")

TRAINED = """
import json, sys
from qwen_align.compat import imports
imports.defer()
import accelerate, evaluate, torch, trl, wandb
from transformers.models.qwen2 import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import import_utils
from trl import DPOTrainer, RLOOTrainer, SFTTrainer
from accelerate.utils.other import extract_model_from_parallel, is_compiled_module
model = Qwen2ForCausalLM(Qwen2Config(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    num_attention_heads=1, num_key_value_heads=1))
optimizer = torch.optim.AdamW(model.parameters())
model(torch.tensor([[1, 2]]), labels=torch.tensor([[1, 2]])).loss.backward()
optimizer.step()
optimizer.zero_grad()
extract_model_from_parallel(model)
found = {"waiting": [name for name in DEFERRED if "_deferred" in sys.modules[name].__dict__], "sympy": "sympy" in sys.modules}

models = import_utils.__file__.replace("utils/import_utils.py", "models")
import importlib.util
spec = importlib.util.spec_from_file_location("transformers.utils.untouched", import_utils.__file__)
untouched = importlib.util.module_from_spec(spec)
spec.loader.exec_module(untouched)
found["structure"] = untouched.define_import_structure(models) == import_utils.define_import_structure(models)

compiled = torch.compile(lambda x: torch.sin(x) + 1, backend="eager")
found["compiles"] = bool(torch.equal(compiled(torch.ones(2)), torch.sin(torch.ones(2)) + 1))
found["known as compiled"] = is_compiled_module(torch.compile(model, backend="eager")) and not is_compiled_module(model)
step = torch.optim.AdamW(model.parameters())
step.zero_grad()
step.step()
decompositions = sys.modules["torch.distributed.tensor._decompositions"]
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, guard_or_false
found["caught"] = decompositions.GuardOnDataDependentSymNode is GuardOnDataDependentSymNode and guard_or_false(1 == 1)
from torch._dynamo import eval_frame
found["real"] = hasattr(eval_frame, "innermost_fn") and torch._dynamo.eval_frame is eval_frame
from scipy.optimize import linear_sum_assignment
from transformers.loss import loss_for_object_detection
found["assigned"] = linear_sum_assignment([[1, 2], [2, 1]])[1].tolist()
found["assigned by transformers"] = loss_for_object_detection.linear_sum_assignment([[1, 2], [2, 1]])[1].tolist()
print(json.dumps(found))
"""


def result_of(script: str, tmp_path: Path) -> dict:
    (tmp_path / "script.py").write_text(f"DEFERRED = {DEFERRED!r}\n{script}")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join([*sys.path[:1], os.getcwd()])}
    argv = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_training_step_imports_none_of_it_and_all_of_it_works_when_it_is_asked_for(tmp_path):
    found = result_of(TRAINED, tmp_path)
    assert found.pop("waiting") == list(DEFERRED)
    assert found == {
        "sympy": False,
        "structure": True,
        "compiles": True,
        "known as compiled": True,
        "caught": True,
        "real": True,
        "assigned": [0, 1],
        "assigned by transformers": [0, 1],
    }


FIRST = """
import json, sys
from qwen_align.compat import imports
imports.defer()
import importlib.util
before = {"known": importlib.util.find_spec("wandb") is not None}
import wandb
before["waits"] = "_deferred" in wandb.__dict__
import wandb.sdk.wandb_settings
from wandb import Settings
import wandb
before |= {"one module": wandb.sdk.wandb_settings.Settings is Settings, "ran": "_deferred" not in wandb.__dict__}
before |= {"spec": wandb.sdk.__spec__.loader is not None and type(wandb.sdk.__spec__.loader).__name__ == "SourceFileLoader"}
print(json.dumps(before))
"""


def test_a_module_inside_of_a_deferred_one_is_imported_after_it_and_once(tmp_path):
    found = result_of(FIRST, tmp_path)
    assert found == dict.fromkeys(("known", "waits", "one module", "ran", "spec"), True)


BROKEN = """
import json, sys, threading
from pathlib import Path
from qwen_align.compat import imports
place = Path(__file__).parent / "late.py"
place.write_text("import time; time.sleep(0.3); value = 7")
sys.meta_path.insert(0, imports._Finder)
imports._defer("late", value_before=1)
import late
found = {"stands in": late.value_before}
threads = [threading.Thread(target=lambda: found.setdefault(len(found), late.value)) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
found["others wait"] = [value for key, value in found.items() if isinstance(key, int)]
found["gone"] = not hasattr(late, "value_before")
(Path(__file__).parent / "broken.py").write_text("import no_such_module")
imports._defer("broken", known=1)
import broken
try:
    broken.value
except ImportError as error:
    found["error"] = error.name
found["known again"] = broken.known
print(json.dumps({key: value for key, value in found.items() if isinstance(key, str)}))
"""


def test_threads_wait_for_a_deferred_module_and_one_that_fails_says_why(tmp_path):
    found = result_of(BROKEN, tmp_path)
    assert set(found.pop("others wait")) == {7}
    assert found == {"stands in": 1, "gone": True, "error": "no_such_module", "known again": 1}
