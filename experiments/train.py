"""Learn a prompt on one MLLM, show what it does to others: `python -m experiments.train exp=NAME key=value ...`."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.cli import parse_words, run_command

FLAGS = ("--help", "-h", "--list", "--dry-run")
HELP = """
usage: python -m experiments.train exp=NAME [key=value ...] [--list] [--dry-run]
       python -m experiments.train resume=RUN_FOLDER

Learns one visual prompt on a frozen source MLLM, scores it on every target at each validation epoch and once on test,
and writes everything to one run folder (out=DIR, default runs/<exp>/<id>).

  --list      the recipes, one line each
  --dry-run   the resolved configuration, what would be loaded, and the memory it needs; loads nothing

Keys (defaults in the recipe; method=evp is short for method.name=evp):
  exp out seed resume official monitor
  source.{name,weights,dtype,quant,official}         sources: [...] for an ensemble
  targets.{names,select,heldout,n,residency,dtype,quant}
  data.{name,root,val,n_train,n_test,shots,names,corruption,cache,workers,augment,split_seed,official}
  prompt.{frame,pad,bounds,init,init_std}
  method.{name,fca,tse,fca_relative,lr,momentum,optimizer,schedule,warmup_steps,sources,clip}
  train.{epochs,max_steps,batch_size,eval_batch_size,accumulate,precision,devices,accelerator,strategy,
         checkpoint_every,val_every,checkpointing,compile,tf32,feature_cache,feature_cache_gib,
         memory_check}
  log.{wandb,csv,tensorboard,project,group,tags,system,samples,every,progress}
"""


def main(argv: Sequence[str]) -> int:
    words = parse_words(argv, flags=FLAGS)
    if words.flags & {"--help", "-h"}:
        print(HELP.strip())
        return 0
    if "--list" in words.flags:
        return _list()
    resumed = [value for key, value in words.pairs if key == "resume" and value not in ("null", "")]
    if resumed:
        return _resume(resumed[-1], [pair for pair in words.pairs if pair[0] not in ("resume", "exp")])
    from experiments.recipes import load_experiment

    config = load_experiment(words.pairs)
    if "--dry-run" in words.flags:
        from experiments.run.memory_plan import print_plan

        return print_plan(config)
    from experiments.run.start import start_run

    start_run(config)
    return 0


def _list() -> int:
    from experiments.recipes import list_recipes

    recipes = list_recipes()
    width = max(map(len, recipes))
    print("\n".join(f"{name:{width}}  {header}" for name, header in recipes.items()))
    return 0


def _resume(folder: str, others: list[tuple[str, str]]) -> int:
    if others:
        raise ValueError(
            f"A resumed run keeps its configuration; got {' '.join('='.join(pair) for pair in others)} beside resume=. "
            "Leave them out, or start a new run."
        )
    from experiments.run.start import resume_run

    resume_run(folder)
    return 0


if __name__ == "__main__":
    run_command(main)
