"""What `mft --help` and `mft <command> --help` print."""

HELP = """mft: masking in language-model fine-tuning, from configuration to a score

  mft train     fine-tune a model with a method, export it, evaluate it
  mft eval      evaluate a model on benchmarks
  mft score     score a file of completions again, without a model
  mft report    compare runs: tables, curves, one HTML page
  mft compare   paired differences of runs: intervals, exact tests, flips, what could have been detected
  mft sweep     many runs: how far they are, once more those that failed, which setting is best
  mft data      look at training data: what is learnt, what would be masked, which benchmark questions it holds
  mft generate  completions of your own questions
  mft critique  make training data for masked critique: solutions, a teacher's critiques, verified
  mft plan      memory, time and disk of a training before it is paid for
  mft analyze   what predictions depend on (question, near, far context); the loss around a model's weights
  mft mask      masks of mask_finetune: apply them to a model, look at them, compare two

  mft <command> --help shows examples. Exit codes: 0 done, 1 a defect of mft, 2 your mistake, 75 stopped by a signal.
"""

TRAIN_HELP = """mft train: fine-tune a model with a method, export it, evaluate it

  mft train method=masked_thought                              the embedded default: SmolLM2-135M on gsm_symbolic
  mft train method=masked_thought data=gsm8k eval=gsm8k        real GSM8K, evaluated at the end
  mft train method=sft data=local data.sources.local.path=my.jsonl train.epochs=1
  mft train method=masked_thought method.mask_ratio=0.2 run_dir=outputs/mine
  mft train -m method=sft,masked_thought seed=1,2,3            a sweep: six runs, one after the other
  mft train -m hydra/launcher=mft_local hydra.launcher.jobs=2 ...   two at a time; see mft sweep --help
  mft train launch=slurm launch.gpus=8 ...                     submit to SLURM; hydra/launcher=mft_slurm: a sweep (docs/slurm.md)
  mft train experiment=paper_masked_thought_gsm8k --cfg job    print the whole configuration and stop

The same command started again goes on from its newest good checkpoint, and evaluates what is not evaluated yet.
Groups (choose with group=option): {groups}
All keys: docs/keys.md.  Hydra's own flags: --cfg, --info, --multirun, --config-dir, ... (mft train --hydra-help).
Tab completion: eval "$(mft -sc install=bash)"
"""

EVAL_HELP = """mft eval: evaluate a model on benchmarks

  mft eval model.path=outputs/<run>/export eval=gsm8k
  mft eval model=smollm2_135m eval=[gsm_symbolic,gsm_symbolic_heldout] eval.engine=hf
  mft eval model.path=<folder> eval=[gsm8k,math500] eval.limit=100 eval.dtype=float32
  mft eval model.path=<folder> eval=gsm8k eval.benchmarks.gsm8k.samples=8 eval.benchmarks.gsm8k.temperature=0.7
  mft eval model.path=<folder> eval=paper_masked_thought       a suite: several benchmarks with a paper's prompt and decoding
  mft eval model.path=<folder> --config-dir mine eval=own      your own benchmark, mine/eval/own.yaml (docs/benchmarks.md)
  mft eval list                                                all benchmarks: problems, source, what is here

Benchmarks and suites: {benchmarks}
A killed evaluation goes on where it was. Results: outputs/eval-.../eval/<benchmark>/metrics.json
"""

SCORE_HELP = """mft score: score a file of completions again, without a model

  mft score generations=outputs/<run>/eval/gsm8k/generations.jsonl eval=gsm8k out=scores
  mft score generations=mine.jsonl eval=gsm_symbolic out=scores

A line needs "id", "sample" and "completion"; with "gold" on every line the benchmark's own data is not needed.
Writes scores.jsonl and metrics.json into out.
"""

REPORT_HELP = """mft report: compare runs

  mft report outputs/a outputs/b            two runs, side by side
  mft report outputs out=outputs/report     all runs below a folder

Writes report.html (one self-contained page), report.md, report.json and the curves as PNG.
"""

COMPARE_HELP = """mft compare: runs on the same problems, pair by pair

  mft compare outputs/sft-s1 outputs/masked-s1              two runs (the first is the baseline)
  mft compare outputs/sft-s* outputs/masked-s*              many seeds: seeds within settings, common seeds paired
  mft compare outputs/a/eval/gsm8k scores/                  evaluation folders; scores/ from mft score
  mft compare outputs/a outputs/b out=outputs/mine

For every benchmark: paired difference with a 95 % interval, McNemar's exact test, Holm's correction, flips, agreement,
and the smallest difference that could have been detected. Writes report.html (both completions of each flip), report.md
and report.json into out (default outputs/compare). What is computed: docs/compare.md
"""

SWEEP_HELP = """mft sweep: many runs of one command

  mft train -m method=masked_thought method.mask_ratio=0.1,0.2,0.3,0.4 seed=1,2,3     12 runs, one after the other
  mft train -m hydra/launcher=mft_local hydra.launcher.jobs=2 ...                     two at a time
  mft train -m hydra/sweeper=optuna 'train.learning_rate=tag(log,interval(1e-5,1e-3))' data.validation.rows=64 ...

  mft sweep status FOLDER                 every job: state, step, time, and what went wrong
  mft sweep retry FOLDER [jobs=2]         run again what failed, was stopped or was killed
  mft sweep report FOLDER [select=NAME]   score against the swept value, and which setting is best: sweep.html, sweep.md
                  [out=FOLDER]            NAME: validation_loss (default), a benchmark, or <benchmark>/gold_logprob

The same mft train -m command finds its folder (outputs/sweeps/...) again, skips finished runs and goes on with the
others. A failed job does not stop the rest. Launchers and searches: docs/sweeps.md.
"""

DATA_HELP = """mft data: look at training data

  mft data show method=masked_thought data=gsm8k               three examples: prompt, response, what would be masked
  mft data show method=masked_thought rows=10 progress=0.5     as halfway through training
  mft data show data=local data.sources.local.path=my.jsonl

rows=N examples, progress=0..1 (default 1: masking at its full ratio), epoch=N.

  mft data check data=gsm8k eval=gsm8k                         which benchmark questions stand in the training rows
  mft data check data=local data.sources.local.path=my.jsonl eval=[gsm8k,svamp] show=10

show=N questions of each kind are printed with their row; out=FILE takes all of it as JSON (docs/contamination.md).
"""

GENERATE_HELP = """mft generate: completions of your own questions by an exported model

  mft generate model.path=outputs/<run>/export "What is 2 + 3?"
  mft generate model.path=outputs/<run>/export decode=refine "What is 2 + 3?"       with method=chunk_refine's head
  mft generate model.path=<folder> file=questions.jsonl out=answers.jsonl temperature=0.7 samples=4
  cat questions.txt | mft generate model=smollm2_135m prompt=raw eval.engine=hf

decode=plain|refine  plain: token by token; refine: a chunk of mask tokens, refined, the most confident accepted, again
question=TEXT        where the text would be taken for a key; several questions may be given as words of their own
file=FILE            a question a line: plain text, or JSON objects with "question"; also from a pipe
out=FILE             JSON lines instead of text on the screen
max_new_tokens=256 temperature=0 top_p=1 samples=1
Takes model=, prompt= and the keys eval.* and launch.* of mft eval. The prompt is the export's own unless given.
"""

PLAN_HELP = """mft plan: memory, time and disk of a training before it is paid for

  mft plan method=sft model=llama2_7b data=gsm8k gpus=8 gpu_memory_gb=80 mfu=0.4 peak_tflops=312 mean_tokens=210
  mft plan model=llama2_70b gpus=64 rows=100000 mean_tokens=600 train.gradient_checkpointing=true
  mft plan model=qwen25_7b peft.name=lora peft.rank=16 gpus=1 rows=7473 mean_tokens=210
  mft plan model=local model.path=my/model arch=my/config.json gpus=8 json=true

Takes every override of mft train, and:
  gpus=N            GPUs in all (default launch.gpus x nodes, else 1); nodes=N (default: 8 GPUs a node)
  gpu_memory_gb=80  memory of one, 1e9 bytes; reserve=0.05 of it is left for what the plan does not count
  mfu=0.4 peak_tflops=312  what share of which peak is reached; without the peak no time is given
  rows=N mean_tokens=N     training examples and tokens of one, where the data or the tokenizer is not here
  label_share=0.6   share of tokens that are learnt (default: counted, else 1)
  arch=FILE         the model's config.json, or its numbers: arch='{model_type: llama, hidden_size: 4096, ...}'
  json=true         for scripts
Prints for every ZeRO stage what lies on a GPU, with and without gradient checkpointing, what fits, and the arithmetic.
Nothing is downloaded and no weight is loaded. What it counts and how it was checked: docs/plan.md
"""

ANALYZE_HELP = """mft analyze: what a model's predictions depend on, and the loss around its weights

  mft analyze dependency data=gsm8k outputs/<sft> outputs/<masked>    which context predictions hang on, and the difference
  mft analyze dependency model=smollm2_135m data=gsm_symbolic outputs/<run> examples=64 near=16 corruption=hide
  mft analyze landscape data=gsm8k outputs/<sft> outputs/<masked>     loss along a random filter-normalised direction
  mft analyze landscape dimensions=2 points=15 reach=0.5 outputs/<run>
  mft analyze landscape kind=line model=smollm2_135m outputs/<sft> outputs/<masked>      from one model to the next
  mft analyze landscape kind=plane points=9 outputs/<sft> outputs/<continued> outputs/<masked>   the plane through three

FOLDER: a run folder (its export) or a model folder. model= or model.path= names the first model; without a FOLDER it is
the only one. Takes data=, prompt=, seed= and the other keys of mft data show, and:
  examples=N     examples, a seeded draw, the same for every model (dependency 32, landscape 16)
  split=auto     the validation rows if the data has some, else the training rows; train; validation
  batch_tokens=2048   tokens in one forward pass; out=FOLDER (default: outputs/<analysis>-<data>-<digest>)
dependency:
  near=16        response tokens that are near; earlier ones are far
  share=0.5      share of a region's tokens that is corrupted; draws=1 corruptions of each region
  corruption=random   another word; mask: the mask token of method=masked_thought; hide: from attention
  positions=8    response tokens of an example whose prediction is measured
landscape:
  kind=random    around each model; line: through the models in turn; plane: through three models
  dimensions=1   of kind=random, 1 or 2; points=11 on an axis; reach=0.2 times a filter's norm
  margin=0.25    of kind=plane: what is shown around the three models, as a share of their extent
  keep_zeros=true     weights that are 0, such as masked ones, stay 0
The same command again goes on where it was stopped. Definitions and formulas: docs/analysis.md
"""

MASK_HELP = """mft mask: what mask_finetune removed

  mft mask apply BASE MASKS OUT      the base model with the masked weights removed, as a model folder
  mft mask inspect MASKS             share removed in every layer and module, as a table and a heat map
                   [out=FILE.png]    where the heat map goes (default: sparsity.png beside the masks)
  mft mask diff MASKS MASKS          how many weights two masks both remove, against what chance gives

MASKS: a masks.mft file, or the folder of an export that holds one. BASE: a model folder, hub id, .gguf file or
package:<python package>/<file>. Masks fit the base model that they were learnt on and no other: its weights are digested.
Layout of the file and meaning of the numbers: docs/mask_finetune.md
"""

CRITIQUE_HELP = """mft critique: training data for method=masked_critique

  mft critique model=smollm2_135m data=gsm8k solutions.samples=4 teacher.model.path=<folder>
  mft critique model=smollm2_135m data=gsm8k teacher.eval.engine=api \\
      teacher.eval.api.base_url=https://host/v1 teacher.eval.api.model=NAME teacher.eval.api.key_env=MY_KEY
  mft critique ... solutions.questions=100 budget.requests=500 budget.tokens=400000
  mft critique ... csv=true row_prompt.template='...' prompt@teacher.prompt=mine

The base model samples solutions, the teacher criticises each and answers anew, the answer is compared with the gold one.
A killed run goes on where it was; a larger budget goes on in the same folder.
Writes train.jsonl, malformed.jsonl, provenance.json into outputs/critique-...; then
  mft train method=masked_critique data=critique data.sources.critique.path=outputs/critique-.../train.jsonl
Groups (choose with group=option): {groups}
"""
