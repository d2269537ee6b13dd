# What a machine with a GPU is asked, within ten minutes, from the repository's root:
#   bash tests/gpu/check.sh [SECTION ..]
# Sections: cells (every smoke cell on both devices, and fits of the CPU on the GPU), those of probe.py, perf.
# Without a GPU all of it runs tiny on the CPU, to find mistakes. Output lies in $OUT (gpu-check).
export PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 OUT=${OUT:-gpu-check}
mkdir -p "$OUT"
S=$(mktemp -d)
P=tests/gpu/probe.py
wanted() { [ -z "$ASKED" ] || [[ " $ASKED " == *" $1 "* ]]; }
ASKED="$*"
if nvidia-smi -L; then
    GPU=cuda METHODS=all TASKS=digits,digits-open,toy JOBS=7
else
    GPU=cpu METHODS=standard_ensemble,sgld TASKS=toy JOBS=2
fi
# An environment of its own, where the package is not installed: wheels that the machine lacks lie in .whl.
if ! python3 -c 'import bench.methods, bench.datasets' 2>"$OUT/import.log"; then
    if [ -d .whl ]; then
        python3 -m pip install -q --no-index --no-deps --no-compile --target "$S/site" .whl/*.whl
    fi
    python3 -c "import setuptools; setuptools.setup()" -q egg_info build_ext --inplace >"$OUT/build.log" 2>&1
    ln -sfn ../methods bench/methods
    ln -sfn ../datasets bench/datasets
    export PYTHONPATH=$PWD:$S/site
fi
git rev-parse HEAD
B='from bench.cli.main import main; main()'
RUN="run --method $METHODS --task $TASKS --preset smoke --jobs $JOBS"
if wanted cells; then
    timeout 170 python3 -c "$B" $RUN --device cpu --results "$S/c" >"$OUT/cpu.log" 2>&1 &
    timeout 170 python3 -c "$B" $RUN --device $GPU --results "$S/g" >"$OUT/gpu.log" 2>&1
    wait
    tail -n 2 "$OUT/cpu.log"
    tail -n 2 "$OUT/gpu.log"
    grep -h -e failed: -e warning: "$OUT/gpu.log" | cut -c1-300 | sed 's/^worker [0-9]*: *//' | sort | uniq -c | head -20
    python3 $P compare "$S/c" "$S/g" RETRAINED | tee "$OUT/cells.txt"
    python3 $P lend "$S/c" "$S/e"
    timeout 90 python3 -c "$B" $RUN --device $GPU --results "$S/e" >"$OUT/fits.log" 2>&1
    python3 $P compare "$S/c" "$S/e" SAME_FIT | tee -a "$OUT/cells.txt"
    tar czf "$OUT/rows.tar.gz" -C "$S" c/raw g/raw e/raw
fi
PARTS=
for part in about ceilings layers steps epochs refusal evaluation profile; do
    if wanted $part; then PARTS="$PARTS $part"; fi
done
[ -n "$PARTS" ] && timeout 330 python3 $P $PARTS | tee "$OUT/probe.txt"
if wanted perf && [ $GPU = cuda ]; then
    timeout 80 python3 -c "$B" perf attack --device cuda | tee "$OUT/perf.txt"
fi
rm -rf "$S"
