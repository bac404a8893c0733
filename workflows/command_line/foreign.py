"""What other programs call our keys: `lr`, `batch_size`, `num_train_epochs`, `n_layer`, `output_dir`.

Enters: a key that a config does not have, and the config's class. Leaves: which key of that config it is, or what takes
its place. One table for all workflows: of a row's keys those are named that the config at hand has
(`tests/unit/test_foreign.py` finds each of them in some workflow).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.config import hints, parts_of

_RATE = ("schedule.peak_lr",)
_WARMUP = ("schedule.warmup_steps",)
_EPOCHS = ("epochs",)
_STEPS = ("steps",)
_LENGTH = ("batch.sequence_length", "sequence_length", "context")
_GLOBAL = ("batch.global_batch",)
_MICRO = ("batch.micro_batch",)
_SAVE = ("checkpoint.every_steps",)
_KEEP = ("checkpoint.keep_last", "keep_last")
_LOG = ("log_every_steps",)
_LAYERS, _WIDTH, _HEADS = ("model.layers",), ("model.d_model",), ("model.heads",)
_KV, _FFN, _IDS = ("model.kv_heads",), ("model.d_ff",), ("model.vocabulary", "tokenizer.vocabulary_size")
_PRECISION = ("zero.precision", "dtype")
_GPUS = ("cluster.gpus_per_worker",)
_WORKERS = ("cluster.workers",)
_MODEL = ("model.of", "model", "parent")
_ANSWER = ("sampling.max_new_tokens", "tasks.completions.max_new_tokens", "new_tokens")
_PARALLEL = "a model is not split by layers or matrices; zero=zero3 splits its training state over cluster.workers"
_ANEW = "run the same command again and it goes on from the last checkpoint"
_BATCH = "of batch.global_batch, what one worker computes at a time is batch.micro_batch"
_PLACE = "an artifact lies at <store>/<kind>/<name>: set store= and name="
_TAKEN = "an artifact: your files become a corpus, the corpus tokens, the tokens a mixture, each by its command"


@dataclass(frozen=True)
class Ours:
    """What stands in the place of a foreign key.

    Attributes: keys, ours, of which those are named that the config has; value, to write whatever came; said, what else
    there is to know, and all of it where there is no key.
    """

    keys: tuple[str, ...] = ()
    said: str = ""
    value: str | None = None


# names of others, in small letters and with _ for -
_ROWS: tuple[tuple[str, Ours], ...] = (
    # ── the learning rate ──
    ("learning_rate lr max_lr peak_lr base_lr max_learning_rate peak_learning_rate", Ours(_RATE)),
    ("warmup warmup_iters num_warmup_steps lr_warmup_steps warmup_steps", Ours(_WARMUP)),
    ("warmup_ratio lr_warmup_fraction", Ours(("schedule.warmup_fraction",))),
    ("min_lr lr_min min_lr_ratio min_learning_rate", Ours(("schedule.final_ratio",), "a share of the peak", "0.1")),
    (
        "lr_scheduler lr_scheduler_type scheduler lr_schedule lr_decay_style",
        Ours(("schedule.decay",), "decay belongs to anneal, the trunk keeps its rate"),
    ),
    ("lr_decay_iters lr_decay_steps", Ours(("schedule.decay_steps",))),
    # ── how long ──
    (
        "epoch num_epochs n_epochs num_train_epochs max_epochs train_epochs",
        Ours(_EPOCHS),
    ),
    (
        "step max_steps num_steps n_steps train_steps total_steps num_train_steps iters max_iters train_iters "
        "iterations num_iterations max_train_steps",
        Ours(_STEPS),
    ),
    (
        "max_tokens train_tokens num_tokens tokens_total",
        Ours(_STEPS, "a step reads batch.global_batch × batch.sequence_length tokens", "<tokens / tokens of a step>"),
    ),
    # ── batches ──
    (
        "batch_size bs train_batch_size global_batch_size batchsize global_bs total_batch_size",
        Ours(_GLOBAL, f"in windows of batch.sequence_length tokens, over all workers; {_BATCH}"),
    ),
    (
        "micro_batch_size per_device_train_batch_size per_device_batch_size device_batch_size mbs "
        "train_micro_batch_size_per_gpu per_gpu_train_batch_size",
        Ours(_MICRO),
    ),
    (
        "gradient_accumulation_steps grad_accum grad_accum_steps accumulate_grad_batches accumulation "
        "gradient_accumulation",
        Ours(_GLOBAL, "accumulation follows: batch.global_batch / (batch.micro_batch × cluster.workers)", "…"),
    ),
    (
        "seq_len seq_length sequence_length max_seq_len max_seq_length max_length context_length block_size "
        "context_size ctx_len window",
        Ours(_LENGTH),
    ),
    # ── the optimizer ──
    ("weight_decay wd decay_rate", Ours(("optimizer.weight_decay",))),
    (
        "max_grad_norm grad_clip clip_grad gradient_clip_val gradient_clipping grad_norm_clip clip gradient_clip",
        Ours(("optimizer.gradient_clip",)),
    ),
    ("beta1 beta2 adam_beta1 adam_beta2 betas", Ours(("optimizer.betas",), value="[0.9,0.95]")),
    ("adam_epsilon adam_eps epsilon", Ours(("optimizer.eps",))),
    ("momentum", Ours(("optimizer.momentum",))),
    ("optim optimizer_type optimizer_name", Ours(("optimizer",), "choices of conf/optimizer")),
    # ── the model ──
    ("n_layer n_layers num_layers num_hidden_layers depth", Ours(_LAYERS)),
    ("hidden_size n_embd d_model dim hidden_dim embed_dim width n_embed", Ours(_WIDTH)),
    ("num_attention_heads n_head n_heads num_heads", Ours(_HEADS)),
    ("num_key_value_heads n_kv_heads num_kv_heads num_query_groups", Ours(_KV)),
    ("intermediate_size ffn_dim ffn_hidden_size mlp_dim n_inner", Ours(_FFN)),
    ("vocab_size vocab n_vocab vocabulary_size", Ours(_IDS)),
    ("max_position_embeddings n_positions n_ctx", Ours(("model.max_positions",))),
    ("rope_theta rotary_base", Ours(("model.rope_base", "rope_base"))),
    ("rms_norm_eps layer_norm_eps norm_epsilon", Ours(("model.norm_eps",))),
    ("initializer_range init_method_std", Ours(("model.init_std",))),
    ("dropout attention_dropout attn_pdrop resid_pdrop", Ours(said="the models have no dropout")),
    ("model_name model_name_or_path model_path pretrained pretrained_model base_model model_id", Ours(_MODEL)),
    (
        "init_from load_from load_checkpoint from_checkpoint ckpt ckpt_path checkpoint_path",
        Ours(("parent", "model.of"), "a run of the store, e.g. pretrain/demo@latest", "<kind>/<name>"),
    ),
    # ── precision and machines ──
    ("bf16 bfloat16", Ours(_PRECISION, value="bfloat16")),
    ("fp32 float32 no_amp", Ours(_PRECISION, value="float32")),
    ("fp8", Ours(_PRECISION, value="fp8")),
    (
        "fp16 float16 half amp",
        Ours(_PRECISION, "training has no float16, whose range would need loss scaling", "bfloat16"),
    ),
    ("dtype precision mixed_precision torch_dtype", Ours(_PRECISION, "float32, bfloat16 or fp8")),
    (
        "gpus num_gpus n_gpus ngpus devices num_devices n_gpu",
        Ours(_WORKERS, "one worker for each GPU, with cluster.gpus_per_worker=1"),
    ),
    ("gpu cuda use_gpu", Ours(_GPUS, value="1")),
    ("device accelerator", Ours(_GPUS, "0 trains on CPUs", "1")),
    ("cpu use_cpu no_cuda", Ours(_GPUS, value="0")),
    ("nproc_per_node world_size num_workers n_workers nproc num_processes workers", Ours(_WORKERS)),
    ("nnodes num_nodes nodes", Ours(_WORKERS, "over all machines of the Ray cluster of cluster.address", "…")),
    ("tensor_parallel tp tensor_model_parallel_size pp pipeline_parallel_size", Ours(said=_PARALLEL)),
    ("deepspeed zero_stage fsdp ds_config", Ours(("zero.stage",), "0, 1, 2 or 3")),
    (
        "gradient_checkpointing activation_checkpointing recompute",
        Ours(("compute.keep",), "auto does it where memory asks for it", "input"),
    ),
    ("torch_compile compile", Ours(("compute.compile",), "auto, on or off")),
    (
        "flash_attention attn_implementation use_flash_attn attention flash_attn",
        Ours(("compute.attention",), "auto takes the fastest that is there", "auto"),
    ),
    (
        "local_rank rank master_addr master_port",
        Ours(said="Ray starts the workers and numbers them: set cluster.workers"),
    ),
    # ── where from and where to ──
    (
        "output_dir out_dir output save_dir save_path logdir log_dir results_dir work_dir save out",
        Ours(("store",), _PLACE),
    ),
    ("checkpoint_dir ckpt_dir checkpoints_dir", Ours(("store",), _PLACE)),
    ("run_name exp_name job_name run_id", Ours(("name",))),
    (
        "dataset dataset_name data_dir data_path train_file train_data train_dataset dataset_path input "
        "input_dir input_file path paths file files folder directory",
        Ours(("data",), _TAKEN, "<kind>/<name>"),
    ),
    (
        "dataset dataset_name data_dir data_path train_file train_data train_dataset dataset_path input "
        "input_dir input_file path paths file files folder directory",
        Ours(("corpus.sources",), "with corpus=own_data, e.g. corpus.sources.notes.reader.path=notes.jsonl", "{…}"),
    ),
    (
        "val_split validation_split eval_dataset val_data valid_data test_size",
        Ours(said="a corpus sets documents apart when it is made: corpus.sources.<name>.heldout=0.01"),
    ),
    ("tokenizer_name tokenizer_path tokenizer_name_or_path", Ours(("tokenizer.reuse", "tokens"))),
    # ── saving, logging, going on ──
    (
        "resume resume_from_checkpoint auto_resume resume_from continue resume_training restart restore",
        Ours(said=_ANEW),
    ),
    (
        "overwrite overwrite_output_dir force exist_ok f redo",
        Ours(("on_change",), "what is finished under the name is made anew", "rebuild"),
    ),
    (
        "save_steps save_interval save_every checkpoint_interval ckpt_interval save_freq checkpoint_every "
        "save_every_steps",
        Ours(_SAVE),
    ),
    ("save_total_limit keep_checkpoints max_checkpoints keep_last_n", Ours(_KEEP)),
    (
        "eval_steps eval_interval eval_every evaluation_strategy eval_strategy val_interval do_eval",
        Ours(
            said="a run is evaluated by a command of its own, evaluate parent=<kind>/<name>@step-N, while "
            "it goes on or later"
        ),
    ),
    ("logging_steps log_interval log_every log_freq log_every_n_steps print_every", Ours(_LOG)),
    (
        "report_to wandb wandb_project project wandb_name project_name tensorboard",
        Ours(("tracking.experiment",), "runs are tracked in MLflow"),
    ),
    ("mlflow_uri tracking_uri mlflow_tracking_uri", Ours(("tracking.uri",))),
    ("random_seed rng_seed manual_seed random_state", Ours(("seed",))),
    (
        "verbose quiet debug v log_level",
        Ours(said="what is printed cannot be chosen; dry_run=true prints the plan alone"),
    ),
    ("dryrun plan_only test_run simulate", Ours(("dry_run",), value="true")),
    # ── the others ──
    ("dpo_beta", Ours(("objective.beta",))),
    ("temp temperature t", Ours(("sampling.temperature", "tasks.completions.temperature"))),
    ("top_p top_k min_p repetition_penalty", Ours(("sampling.{}",))),
    ("max_new_tokens n_predict", Ours(_ANSWER)),
    ("system_prompt system_message", Ours(("system",))),
    ("bits quant quantization", Ours(("method",), "the rows that say how many bits", "…")),
    ("out_type export_format save_format", Ours(("format", "dtype"))),
    ("backend engine runtime", Ours(("program",), "transformers or llama_cpp")),
    ("checkpoint run from", Ours(("parent", "run", "model.of"), value="<kind>/<name>")),
)
KEYS: dict[str, list[Ours]] = {}
for _names, _row in _ROWS:
    for _name in _names.split():
        KEYS.setdefault(_name, []).append(_row)
# groups of ours and of others, under which a foreign key may stand
_GROUPS = (
    *("model", "optimizer", "schedule", "batch", "checkpoint", "objective", "tokenizer", "sampling", "zero", "compute"),
    *("train", "trainer", "training", "optim", "scheduler", "lr_scheduler", "data", "cluster"),
)


def ours(config_class: type, key: str, value: str = "") -> str | None:
    """What a key of another program is called here: `lr is schedule.peak_lr here: write schedule.peak_lr=0.01`.

    Args: key, as it was typed, with or without a group before it; value, as typed, "" for none.
    Returns: None for a key that no row has, or none of whose keys the config has.
    """
    name = key.lstrip("-").replace("-", "_").lower()
    group, _, last = name.rpartition(".")
    rows = KEYS.get(name) or (KEYS.get(last, []) if group in _GROUPS else [])
    near = {f"{name}s", name.removesuffix("s")} & (set(hints(config_class)) - {name}) if not group else set()
    if near and not any(near & set(row.keys) for row in rows):
        return None  # one letter beside a key of ours
    for row in rows:
        there = next((path for told in row.keys if has(config_class, path := told.format(last))), None)
        if there is not None and there != name:
            written = row.value or value.strip() or "…"
            return f"{key} is {there} here: write {there}={written}" + (f" ({row.said})" if row.said else "")
        if not row.keys:
            back = has(config_class, "checkpoint.resume") and row.said == _ANEW
            earlier = "; checkpoint.resume=step-N goes back to an earlier one" if back else ""
            return f"{key} is no key: {row.said}{earlier}"
    return None


def has(config_class: type, path: str) -> bool:
    """Whether a config has this key, by its types."""
    first, *rest = path.split(".")
    hint: Any = hints(config_class).get(first)
    for part in rest:
        hint = parts_of(hint).get(part) if hint is not None else None
    return hint is not None
