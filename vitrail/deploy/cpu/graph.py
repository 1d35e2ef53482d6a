"""A model at one size of image as a graph of torch's own operations, and what is done to any graph."""
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vitrail.deploy.trace import follows, forget, quiet, trace

aten = torch.ops.aten
VIEWS = {aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten.unsqueeze.default, aten.squeeze.dim,
         aten.squeeze.dims}
CACHE = 26 * 2**20  # bytes of a tensor that caches hold from one call to the next: of the 32 MB that cores often share
FEW = 4             # images that fill a processor as well as more do, in float32
SMALL = {4: 4 * 2**20, 2: CACHE}        # bytes that a tensor should have by a number's bytes, of no fewer images: in
#                                         float32 such parts take no more time, and hold less; shorter numbers take more


class Constants(nn.Module):
    """The tensors that a graph reads: weights, and what was computed beforehand.

    fakes: makes tensors without numbers, of which the shapes of answers are found.
    """

    def __init__(self, fakes: FakeTensorMode):
        super().__init__()
        self.fakes, self.count = fakes, 0
        self.names: dict[str, str] = {}

    def keep(self, graph: fx.Graph, value: Tensor, called: str = "") -> fx.Node:
        """A node that reads `value`; `called` is the model's name for it, or for what it was made of."""
        name, self.count = f"constant_{self.count}", self.count + 1
        self.__dict__[name] = value                     # no buffer: packed weights can be neither moved nor saved
        self.names[name] = called
        node = graph.get_attr(name)
        if value.layout is torch.strided:
            node.meta["val"] = self.fakes.from_tensor(value, static_shapes=True)
        return node

    def value(self, node: fx.Node) -> Tensor:
        found: Tensor = self.__dict__[str(node.target)]
        return found

    def name(self, node: fx.Node) -> str:
        return self.names[str(node.target)]

    def drop(self, names: set[str]) -> None:
        """Forgets every constant but these."""
        for name in [n for n in self.__dict__ if n.startswith("constant_") and n not in names]:
            del self.__dict__[name]


def traced(model: nn.Module, *example: Tensor) -> tuple[fx.Graph, Constants]:
    """A model's tensors in -> tensors out, for inputs of the examples' shapes alone: one tensor, or a tuple of several.

    Raises ExportError where it cannot be traced.
    """
    program = trace(model, example)
    with quiet():
        program = program.run_decompositions({})        # nothing is taken apart, but no call changes a tensor any more
    signature, graph = program.graph_signature, fx.Graph()
    constants = Constants(next(n.meta["val"].fake_mode for n in program.graph.nodes if n.op == "placeholder"))
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers,
             **signature.inputs_to_lifted_tensor_constants}
    tensors = {**program.state_dict, **program.constants}
    new: dict[fx.Node, fx.Node] = {}
    inputs: list[fx.Node] = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            name = named.get(node.name)
            new[node] = graph.placeholder(f"input_{len(inputs)}") if name is None else constants.keep(
                graph, tensors[name].detach(), name.removeprefix("model."))      # `Flat`'s name for the model
            if name is None:
                inputs.append(new[node])
            new[node].meta["val"] = node.meta["val"]
        elif node.op == "output":
            answers = tuple(new[answer] for answer in node.args[0])
            graph.output(answers[0] if len(answers) == 1 else answers)
        else:
            new[node] = graph.node_copy(node, lambda n: new[n])
    for node in calls(graph, aten.view.default, aten._unsafe_view.default):
        node.target = aten.reshape.default              # a rewritten call may lay its answer out otherwise
    tidy(graph, constants)
    return graph, constants


def batch(graph: fx.Graph) -> int:
    """How many samples a graph takes."""
    return next(shape(node)[0] for node in graph.nodes if node.op == "placeholder")


def microbatch(graph: fx.Graph, width: int) -> int:
    """How many images it is best given at a time, for numbers of `width` bytes: so many that the largest tensor between
    its calls stays in the last cache, and small if that costs nothing; in parts as even as can be."""
    images, most = batch(graph), width * max(_numbers(node) for node in graph.nodes)
    least = max(math.ceil(most / CACHE), min(math.ceil(most / SMALL[width]), images // FEW))
    even = (parts for parts in range(least, min(2 * least, images) + 1) if images % parts == 0)
    return math.ceil(images / max(1, next(even, least)))


def _numbers(node: fx.Node) -> int:
    val = node.meta.get("val")
    return val.numel() if node.op == "call_function" and isinstance(val, Tensor) else 0


def args_of(node: fx.Node, count: int = 0) -> list[Any]:
    """What a call was given, up to `count` with None for what was left out."""
    return [*node.args, *[None] * (count - len(node.args))]


def shape(node: fx.Node) -> tuple[int, ...]:
    """Of what a node answers."""
    return tuple(node.meta["val"].shape)


def value(node: Any) -> Any:
    """What a node answers, as a tensor without numbers."""
    return fx.map_arg(node, lambda n: n.meta["val"])


def calls(graph: fx.Graph, *targets: Any) -> Iterator[fx.Node]:
    """The nodes that call one of these."""
    return iter([node for node in graph.nodes if node.op == "call_function" and node.target in targets])


def only_user(node: fx.Node) -> fx.Node | None:
    """What alone reads a node."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def insert(graph: fx.Graph, target: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any] | None = None,
           *, val: Tensor | None = None) -> fx.Node:
    """A call at the place where the graph inserts, with the shape of its answer: `val`, or found by calling it on
    tensors without numbers."""
    node = graph.call_function(target, tuple(args), kwargs or {})
    node.meta["val"] = target(*value(tuple(args)), **(kwargs or {})) if val is None else val
    return node


def tidy(graph: fx.Graph, constants: Constants) -> None:
    """Removes what nobody reads."""
    for node in calls(graph, aten._assert_tensor_metadata.default):
        graph.erase_node(node)
    sweep(graph)
    constants.drop({str(node.target) for node in graph.nodes if node.op == "get_attr"})


def sweep(graph: fx.Graph) -> None:
    """Removes calls whose answers nobody reads; attention among them, which counts as random."""
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))


def fold_constants(graph: fx.Graph, constants: Constants) -> int:
    """Computes beforehand what depends on no image: tables at this size, masks, attention to places. How many were."""
    known: dict[fx.Node, Any] = {node: constants.value(node) for node in graph.nodes if node.op == "get_attr"}
    found, names = follows(graph, known), dict[fx.Node, str]()
    for node in graph.nodes:
        if node in known:
            names[node] = constants.name(node) if node.op == "get_attr" else \
                next(filter(None, map(names.get, node.all_input_nodes)), "")
    for node, tensor in found.items():
        with graph.inserting_before(node):
            node.replace_all_uses_with(constants.keep(graph, tensor, names[node]))
    tidy(graph, constants)
    return len(found)


def simplify(graph: fx.Graph, constants: Constants) -> None:
    """Removes calls that answer what they were given: slices of all, views of the same shape, other names."""
    for node in calls(graph, aten.slice.Tensor, aten.alias.default, aten.expand.default, *VIEWS):
        given = args_of(node)[0]
        if isinstance(given, fx.Node) and shape(given) == shape(node):
            node.replace_all_uses_with(given)
    tidy(graph, constants)


def module(graph: fx.Graph, constants: Constants) -> fx.GraphModule:
    """The graph as something that runs; of what was known of its nodes, the shapes of their answers are left."""
    graph.lint()
    for node in graph.nodes:
        node.meta = {"val": node.meta.get("val")}
    forget()
    return fx.GraphModule(constants, graph, "Plan")
