"""Position attention in ONNX as a loop over blocks of queries: exact, in linear memory."""

from typing import Any

import onnx_ir as ir
import onnxscript

_op: Any = onnxscript.opset18  # typed for values, not for tracing

_BLOCK_ENTRIES = 2**22  # of the matrix of all pairs, in one block; 16 MB in float32


def query_blocks(query: Any, key: Any, value: Any, scale: float) -> tuple[Any, Any]:
    """Translate ``scenewise::position_attention``; PyTorch's exporter calls it while it traces.

    Queries are zero-padded to a whole number of blocks, a ``Scan`` attends with one block after
    the other, and the output of the padding is cut off.
    """
    zero, one = _op.Constant(value_ints=[0]), _op.Constant(value_ints=[1])
    batch, rows = _op.Shape(query, start=0, end=1), _op.Shape(query, start=1, end=2)
    pairs = _op.Mul(_op.Mul(batch, rows), _op.Shape(key, start=1, end=2))  # B Nq Nk
    count = _ceil_divide(pairs, _op.Constant(value_ints=[_BLOCK_ENTRIES]))  # n blocks
    size = _ceil_divide(rows, count)  # queries in a block
    all_rows = _op.Mul(size, count)
    below = _op.Concat(zero, zero, zero, zero, _op.Sub(all_rows, rows), zero, axis=0)  # of axis 1
    padded = _op.Pad(_op.Mul(query, _op.Constant(value_float=scale)), below)
    depth = _op.Shape(query, start=2, end=3)
    blocks = _op.Reshape(padded, _op.Concat(batch, count, size, depth, axis=0))  # (B, n, Nq / n, D)
    body = _attend(query.name, _op.Transpose(key, perm=[0, 2, 1]), value)
    gathered = _op.Scan(
        blocks, body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1]
    )
    width = _op.Shape(value, start=2, end=3)
    flat = _op.Reshape(gathered, _op.Concat(batch, all_rows, width, axis=0))  # (B, n Nq / n, C)
    out = _op.Slice(flat, zero, rows, one)
    return out, _op.Identity(out)  # the second is the log-sum-exp, which is unused


def _ceil_divide(a: Any, b: Any) -> Any:
    """a / b, rounded up."""
    return _op.Div(_op.Sub(_op.Add(a, b), _op.Constant(value_ints=[1])), b)


def _attend(name: str, across: Any, value: Any) -> ir.Graph:
    """softmax(block across) value, for one block of queries (B, rows, D)."""
    float32, unknown = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None, None, None])
    block = ir.Value(name=f"{name}_block", type=float32, shape=unknown)
    energy = ir.node("MatMul", [block, across])
    weights = ir.node("Softmax", energy.outputs, {"axis": -1})
    gathered = ir.node("MatMul", [weights.outputs[0], value])
    nodes = [energy, weights, gathered]  # (B, rows, Nk), (B, rows, Nk), (B, rows, C)
    for i, node in enumerate(nodes):
        node.outputs[0].name = f"{name}_block_{i}"
    gathered.outputs[0].type, gathered.outputs[0].shape = float32, unknown
    return ir.Graph([block], gathered.outputs, nodes=nodes, name="attend")
