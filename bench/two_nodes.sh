#!/bin/sh
# Train over two "machines": two network namespaces joined by a pair of virtual interfaces. Their
# weights must be those of two processes on one machine, bit for bit. Needs root and `ip`.
#   sh bench/two_nodes.sh [PYTHON]
set -eu
PYTHON=${1:-.venv/bin/python}
[ "$(id -u)" = 0 ] || { echo "two_nodes: needs root for network namespaces" >&2; exit 77; }
command -v ip >/dev/null || { echo "two_nodes: needs ip, of the package iproute2" >&2; exit 77; }

OUT=$(mktemp -d)
A=scenewise-a B=scenewise-b
clean() {
    ip netns del $A 2>/dev/null || true
    ip netns del $B 2>/dev/null || true
    rm -rf "$OUT"
}
trap clean EXIT
ip netns add $A
ip netns add $B
ip link add swa netns $A type veth peer name swb netns $B
ip -n $A addr add 10.77.0.1/24 dev swa
ip -n $B addr add 10.77.0.2/24 dev swb
for node in "$A swa" "$B swb"; do
    ip -n "${node% *}" link set lo up
    ip -n "${node% *}" link set "${node#* }" up
done

export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
FIT="-m scenewise fit --data.format scenes --data.scenes_train 16 --data.scenes_val 5
    --data.scenes_size [32,64] --data.num_workers 0 --model.network fcn --model.backbone tiny
    --trainer.accelerator cpu --trainer.max_steps 6 --trainer.log_every_n_steps 1"

node() {  # number, namespace, interface
    ip netns exec "$2" env GLOO_SOCKET_IFNAME="$3" "$PYTHON" -m torch.distributed.run \
        --nnodes 2 --node-rank "$1" --nproc-per-node 1 \
        --master-addr 10.77.0.1 --master-port 29500 \
        $FIT --data.batch_size 2 --trainer.default_root_dir "$OUT" --name two
}
node 1 $B swb >"$OUT/b.log" 2>&1 &
other=$!
node 0 $A swa >"$OUT/a.log" 2>&1 || { cat "$OUT/a.log" "$OUT/b.log"; exit 1; }
wait $other
"$PYTHON" -m torch.distributed.run --standalone --nproc-per-node 2 $FIT --data.batch_size 2 \
    --trainer.default_root_dir "$OUT" --name one >"$OUT/one.log" 2>&1 || { cat "$OUT/one.log"; exit 1; }

"$PYTHON" - "$OUT" <<'PY'
import csv, sys
from pathlib import Path

def ended(name):
    run = Path(sys.argv[1], name, "version_0")
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    column = next(c for c in rows[0] if "loss" in c and "val" not in c)
    return [row[column] for row in rows if row[column]], (run / "model.safetensors").read_bytes()

(one, weights_one), (two, weights_two) = ended("one"), ended("two")
print("two nodes:   losses", *two)
print("one machine: losses", *one)
print("weights", "equal" if weights_one == weights_two else "DIFFER")
sys.exit(one != two or weights_one != weights_two)
PY
