"""What a TFLite file stores, read from its flatbuffer: the interpreter hides 4-bit weights."""

from __future__ import annotations


def stored_types(content: bytes) -> frozenset[str]:
    """Return the types of all tensors that hold weights, such as ``{"int4", "int32"}``."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name.lower() for name, code in vars(schema.TensorType).items()
             if isinstance(code, int)}  # fmt: skip
    model = schema.Model.GetRootAs(content, 0)
    found = set()
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        tensors = [graph.Tensors(number) for number in range(graph.TensorsLength())]
        found |= {t.Type() for t in tensors if model.Buffers(t.Buffer()).DataLength()}
    return frozenset(names[code] for code in found)
