"""Hugging Face folders of every family: logits equal to transformers', and what would run wrong is refused by name.

The folders are made by scripts/make_goldens.py."""
import json
import shutil
import struct

import pytest

from served import Server
from weft import ROOT, fails, run
from worlds import worlds  # noqa: F401

FOLDERS = sorted(path.parent for path in ROOT.glob("tests/goldens/tiny-*/golden.safetensors"))
GGUF_FILES = sorted(ROOT.glob("tests/goldens/tiny-*/model.gguf"))  # made by scripts/make_gguf_goldens.py
TINY = ROOT / "tests/goldens/tiny-llama"


def check(folder, *arguments):
    return run("check", "--model", folder, "--golden", folder / "golden.safetensors", *arguments)


def test_every_family_has_a_golden():
    families = {json.loads((folder / "config.json").read_text())["model_type"] for folder in FOLDERS}
    assert families == {"llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "seed_oss"}


@pytest.mark.parametrize("mode", ["ar", "ag_rs"])
@pytest.mark.parametrize("tp", [1, 2, 3, 4])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_logits_match_hugging_face(folder, tp, mode):
    done = check(folder, "--tp", tp, "--mode", mode, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    # Batch-invariance: whole, in chunks or token by token, the bits are the same.
    assert len({p["hash"] for p in json.loads(done.stdout)["passes"][:3]}) == 1, done.stdout


def test_modes_give_the_same_bits():
    """`auto` replicates short steps and shards long ones: it mixes both in one sequence."""
    for folder, ranks in [(TINY, ("--tp", 3)), (TINY.parent / "tiny-qwen3-moe", ("--tp", 2)),
                          (TINY.parent / "tiny-qwen3-moe", ("--tp", 2, "--ep", 2))]:
        done = [check(folder, *ranks, "--mode", mode, "--json") for mode in ("ar", "ag_rs", "auto")]
        assert [d.returncode for d in done] == [0, 0, 0], [d.stdout + d.stderr for d in done]
        assert len({p["hash"] for d in done for p in json.loads(d.stdout)["passes"][:3]}) == 1, (folder, ranks)


MOE_FOLDERS = [folder for folder in FOLDERS if "moe" in folder.name]


@pytest.mark.parametrize("mode", ["ar", "ag_rs"])
@pytest.mark.parametrize("tp, ep", [(1, 1), (1, 2), (1, 3), (1, 4), (2, 2)])
@pytest.mark.parametrize("folder", MOE_FOLDERS, ids=lambda folder: folder.name)
def test_experts_spread_over_ranks_match_hugging_face(folder, tp, ep, mode):
    done = check(folder, "--tp", tp, "--ep", ep, "--mode", mode, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["tp"], report["ep"]) == (tp, ep)
    assert len({p["hash"] for p in report["passes"][:3]}) == 1, done.stdout
    if (tp, ep, mode) == (1, 2, "ar"):
        again = json.loads(check(folder, "--ep", ep, "--mode", mode, "--threads", 2, "--json").stdout)
        assert [p["hash"] for p in again["passes"]] == [p["hash"] for p in report["passes"]]


def test_expert_parallel_gguf_and_processes(worlds):
    """A quantisable file, and ranks that are processes of a world whose size --ep leaves to --tp."""
    file = TINY.parent / "tiny-qwen3-moe/model.gguf"
    golden = ("--golden", file.parent / "golden.safetensors")
    assert run("check", "--model", file, *golden, "--ep", 3).returncode == 0
    program = worlds.launch(4, "weft", "check", "--model", file, *golden, "--ep", 2)
    assert program.wait(120) == 0, program.err_text()


def test_a_server_with_experts_spread_over_ranks_answers_as_generate_does():
    model, prompt = TINY.parent / "tiny-qwen3-moe", [5, 17, 42, 9]
    done = run("generate", "--model", model, "--json", "--ep", 2, "--max-tokens", 12, "--temperature", 0,
               "--prompt-ids", ",".join(map(str, prompt)))
    assert done.returncode == 0, done.stderr
    with Server("--ep", 2, model=model) as server:
        assert server.num_ranks == 2
        answer = server.client().completions.create(model=str(model), prompt=prompt, max_tokens=12, temperature=0)
    assert answer.choices[0].text == json.loads(done.stdout)["text"]


def test_an_ep_that_does_not_fit_is_named():
    moe = TINY.parent / "tiny-qwen3-moe"
    def refused(folder, *flags, says):
        fails("check", "--model", folder, "--golden", folder / "golden.safetensors", *flags, says=says)
    refused(TINY, "--ep", 2, says=["--ep 2", "no experts"])
    refused(moe, "--ep", 10, says=["--ep 10", "9 experts"])
    refused(moe, "--tp", 2, "--ep", 4, says=["--tp 2 --ep 4", "6 query heads"])
    world = {"RANK": 0, "WORLD_SIZE": 4, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 9}
    fails("check", "--model", moe, "--golden", moe / "golden.safetensors", "--ep", 3,
          says=["--ep 3: the world has 4 ranks"], **world)


@pytest.mark.parametrize("mode", ["ar", "ag_rs"])
@pytest.mark.parametrize("tp", [1, 2, 3])
@pytest.mark.parametrize("file", GGUF_FILES, ids=lambda file: file.parent.name)
def test_gguf_files_match_hugging_face(file, tp, mode):
    done = run("check", "--model", file, "--golden", file.parent / "golden.safetensors", "--tp", tp, "--mode", mode)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_gguf_architecture_has_a_golden():
    found = {json.loads(run("info", "--model", file, "--json").stdout)["model"]["architecture"] for file in GGUF_FILES}
    assert found == {"llama", "qwen2", "qwen3", "qwen3_moe", "seed_oss"}


def edited_folder(tmp_path, source=TINY, **fields):
    """A copy of a tiny folder whose config.json has `fields` changed; None takes one out."""
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config.update(fields)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


def test_folders_that_would_run_wrong_are_refused_by_name(tmp_path):
    def refused(says, source=TINY, **fields):
        fails("info", "--model", edited_folder(tmp_path, source, **fields), says=["config.json", *says])
    refused(["model_type 'gpt2'", "llama, mistral, qwen2, qwen3, qwen3_moe, seed_oss"], model_type="gpt2")
    refused(["hidden_act", "gelu"], hidden_act="gelu")
    refused(["quantization_config", "fp8"], quantization_config={"quant_method": "fp8"})
    refused(["longrope"], rope_parameters={"rope_type": "longrope", "rope_theta": 1e4})
    refused(["rope_parameters", "factor"], rope_parameters={"rope_type": "linear", "rope_theta": 1e4})
    refused(["partial_rotary_factor"], rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5})
    refused(["full_attention"], rope_parameters={"full_attention": {"rope_type": "default"}})
    refused(["num_hidden_layers", "nothing"], num_hidden_layers=None)
    refused(["vocab_size", "-3"], vocab_size=-3)
    refused(["vocab_size"], vocab_size=2**64 - 1)
    refused(["rms_norm_eps"], rms_norm_eps="small")
    refused(["eos_token_id"], eos_token_id=[2, 211])
    refused(["7 query heads"], num_attention_heads=7)
    refused(["sliding_window"], sliding_window=64)
    mistral, qwen2 = TINY.parent / "tiny-mistral", TINY.parent / "tiny-qwen2"
    refused(["attention_bias"], mistral, attention_bias=True)
    refused(["layer_types", "one type per layer"], qwen2, layer_types=["full_attention"])
    refused(["layer_types", "chunked"], qwen2, layer_types=["chunked_attention"] * 3)
    refused(["without a sliding_window"], qwen2, layer_types=["sliding_attention"] * 3, use_sliding_window=False)


def test_parameters_that_do_not_fit_are_named(tmp_path):
    golden = ("--golden", TINY / "golden.safetensors")
    fails("check", "--model", edited_folder(tmp_path, hidden_size=64, head_dim=24), *golden,
          says=["embed_tokens", "expected bf16 [211, 64]", "found bf16 [211, 96]"])
    fails("check", "--model", edited_folder(tmp_path, attention_bias=True), *golden,
          says=["model.layers.0.self_attn.q_proj.bias", "missing"])
    fails("check", "--model", edited_folder(tmp_path, num_hidden_layers=2), *golden,
          says=["model.layers.2.", "no parameter of this llama model of 2 layers"])
    qwen2 = TINY.parent / "tiny-qwen2"
    fails("check", "--model", edited_folder(tmp_path, qwen2, model_type="llama", sliding_window=None), "--golden", qwen2 / "golden.safetensors",
          says=["_proj.bias", "no parameter"])
    broken = edited_folder(tmp_path)
    (broken / "model-00002-of-00003.safetensors").unlink()
    fails("check", "--model", broken, *golden, says=["model-00002-of-00003.safetensors"])
    bare = edited_folder(tmp_path)
    (bare / "tokenizer.json").unlink()
    fails("generate", "--model", bare, "hello", says=["tokenizer.json"])


def test_the_older_form_of_config_json_means_the_same(tmp_path):
    rope = json.loads((TINY / "config.json").read_text())["rope_parameters"]
    older = edited_folder(tmp_path, rope_parameters=None, rope_theta=rope.pop("rope_theta"), rope_scaling=rope,
                          torch_dtype="bfloat16", dtype=None)
    runs = [run("check", "--model", m, "--golden", TINY / "golden.safetensors", "--json") for m in (TINY, older)]
    assert runs[0].returncode == 0 and runs[0].stdout == runs[1].stdout, runs[1].stderr


def tensors_of(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    return {name: (entry["dtype"], data[slice(*entry["data_offsets"])])
            for name, entry in header.items() if name != "__metadata__"}


def greedy(folder, *arguments):
    """What weft generates and the golden's own continuation, up to the first margin within the error of bf16."""
    golden = tensors_of(folder / "golden.safetensors")
    numbers = {name: list(struct.unpack(f"<{len(data) // (8 if dtype == 'I64' else 4)}{'q' if dtype == 'I64' else 'f'}", data))
               for name, (dtype, data) in golden.items() if name.startswith("greedy")}
    pairs = zip(numbers["greedy_margins"], numbers["greedy_errors"])
    sure = next((i for i, (margin, error) in enumerate(pairs) if margin <= 2 * error), len(numbers["greedy_ids"]))
    done = run("generate", "--model", folder, "--prompt-ids", ",".join(map(str, numbers["greedy_prompt"])), "--json",
               "--ignore-eos", "--temperature", 0, "--max-tokens", len(numbers["greedy_ids"]), *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["token_ids"]
    assert len(found) == 64
    return found[:sure], numbers["greedy_ids"][:sure]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_greedy_generation_is_hugging_faces(folder):
    for arguments in [(), ("--tp", 2, "--mode", "ag_rs")]:
        found, expected = greedy(folder, *arguments)
        assert len(expected) >= 10 and found == expected


def test_presets_run_with_random_weights_alike_at_every_size():
    def ids(*arguments):
        done = run("generate", "--model", "qwen3-30b-a3b", "--random-weights", "--layers", 1, "--json", "--temperature", 0,
                   "--max-tokens", 4, *arguments, "hello", timeout=250)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["token_ids"]
    assert len(ids()) == 4
    assert ids() == ids("--tp", 2, "--mode", "ag_rs")


def test_presets_are_listed_and_need_their_flag():
    models = {m["name"]: m for m in json.loads(run("models", "--tp", 4, "--json").stdout)}
    assert len(models) == 15
    llama = models["llama-3.1-8b"]
    assert llama["parameters"] == 8030261248 and llama["kv_bytes_per_token"] == 131072
    assert llama["kv_bytes_per_token_per_rank"] == 131072 / 4
    fails("generate", "--model", "qwen3-8b", "hi", says=["qwen3-8b", "--random-weights"])
    fails("generate", "--model", "gpt-4", "--random-weights", "hi", says=["gpt-4", "qwen3-32b"])
    fails("generate", "--model", "qwen3-8b", "--random-weights", "--layers", 99, "hi", says=["36 layers, not 99"])
