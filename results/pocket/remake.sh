#!/usr/bin/env bash
# Makes every run, table and picture of this folder again: bash results/pocket/remake.sh FOLDER [PART ...]
# FOLDER keeps the runs, so that the same command goes on where it was stopped. PARTs are the functions below.
set -euo pipefail
runs=${1:?give a folder for the runs}
shift
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$runs"

keep() { # RUN FOLDER: what is committed of a run
    mkdir -p "$2"
    cp "$1"/leaderboard.csv "$1"/paired.csv "$1"/scores.csv "$1"/scores.json "$2"
}

default() {
    cpam-bench run --out "$runs/default"
    keep "$runs/default" "$here"
}

# Every editor; Imagic with fewer steps, since its own take hours a sample on a CPU.
all() {
    cpam-bench run --out "$runs/all" --methods all,imagic:embedding_steps=100,model_steps=200,model_rate=1e-4
    keep "$runs/all" "$here/all"
    cpam-bench table 2 "$runs/all" --out "$here/all/table2.md"
    cpam-bench sensitivity "$runs/all" --csv "$here/all/sensitivity.csv"
}

pictures() {
    cpam-bench figure "$runs/all" --out "$here/edits.png" \
        --methods cpam,masactrl,pnp,fpe,diffedit,pix2pix-zero,leditspp,sdedit \
        --samples replace-car-to-bus,pose-penguin-jumping,add-teddy-bear-crown,background-cat-beach
    cpam-bench figure "$runs/all" --out "$here/all/edits.png" --count 8
    cpam-bench figure "$runs/all" --out "$here/../pictures/kinds.png" --methods cpam \
        --samples replace-car-to-bus,pose-teddy-bear-upside-down,background-pig-snow,add-cat-top-hat,remove-mushroom
}

# What is retained, and whether anything was edited.
kept() {
    cpam-bench score "$runs/all" --metrics pocket_identity,lpips_region,seam
    keep "$runs/all" "$here/all"
}

ablation() {
    cpam-bench ablate --out "$runs/ablation" --tables "$here/ablation"
    cp "$runs/ablation"/scores.csv "$runs/ablation"/scores.json "$here/ablation"
}

# 104 other tasks whose object or item changes.
objects() {
    cpam-bench data pocket --random 104 --seed 1 --kinds replace,pose,add,several --out "$runs/tasks-objects"
    cpam-bench ablate --groups modules --dataset "$runs/tasks-objects" --out "$runs/objects" --tables "$here/ablation-objects"
    cp "$runs/objects"/scores.csv "$runs/objects"/scores.json "$here/ablation-objects"
}

# 104 other tasks of all kinds.
others() {
    cpam-bench data pocket --random 104 --seed 1 --out "$runs/tasks"
    cpam-bench run --dataset "$runs/tasks" --methods cpam,masactrl,ddim --no-references --out "$runs/others"
    keep "$runs/others" "$here/others"
}

# What the pages of the methods print: their parameters on six samples, one of each kind but removal.
variants() {
    cpam-bench run --out "$runs/variants" --no-references \
        --samples replace-car-to-bus,replace-dog-to-cat,several-duck-to-penguin,pose-duck-upside-down,background-pig-snow,add-cat-top-hat \
        --methods cpam-release,cpam-release:refine=false,fpe,fpe:trajectory=false,masactrl,masactrl:trajectory=false,pnp,pnp:inversion_steps=0,pnp:inversion_steps=0,trajectory=false,pnp:negative_prompt=,p2p-nti,p2p-nti:inner_steps=0,p2p-nti:self_edge=quarter,p2p-nti:inversion=ddim,p2p-nti:inversion=ddim,trajectory=true,p2p-nti:inversion=ddim,self_edge=quarter,trajectory=true,p2p-nti:inversion=negative-prompt
    keep "$runs/variants" "$here/variants"
}

# What the models can do, and what CPAM's edits come to on the benchmark and on the other tasks. It ends with exit code
# 1 where a floor is not reached, and has written its figures then too.
figures() {
    cpam-bench pocket check --run "$runs/all" --run "$runs/others" \
        --out "$here/figures.json" --sheet "$here/samples.png" || test -s "$here/figures.json"
}

[ $# -gt 0 ] || set -- default all pictures kept ablation objects others variants figures
for part in "$@"; do "$part"; done
