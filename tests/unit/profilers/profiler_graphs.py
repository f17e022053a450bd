"""Networks written down layer by layer, for planner and predictor."""

from math import prod

from pipeline.profilers.file_graph import FileGraph, Node, TensorInfo, to_ops


class Net:
    """Collects the layers of one network; every method returns the tensor it makes."""

    def __init__(self, size, channels=3, width=1):
        self.width, self.nodes, self.tensors = width, [], {}
        self.input = self._tensor((1, size, size, channels))

    def _tensor(self, shape):
        name = f"t{len(self.tensors)}"
        dtype = "int8" if self.width == 1 else "float32"
        self.tensors[name] = TensorInfo(
            name=name, bytes=prod(shape) * self.width, shape=shape, dtype=dtype, constant=False
        )
        return name

    def shape(self, name):
        return self.tensors[name].shape

    def _op(self, kind, inputs, shape, macs=0, depthwise=False):
        out = self._tensor(shape)
        self.nodes.append(Node(kind, tuple(inputs), (out,), macs, depthwise))
        return out

    def conv(self, x, channels, kernel=1, stride=1):
        _, size, _, before = self.shape(x)
        size = -(-size // stride)
        shape = (1, size, size, channels)
        return self._op("CONV_2D", [x], shape, prod(shape) * kernel**2 * before)

    def depthwise(self, x, kernel=3, stride=1):
        _, size, _, channels = self.shape(x)
        size = -(-size // stride)
        shape = (1, size, size, channels)
        return self._op("DEPTHWISE_CONV_2D", [x], shape, prod(shape) * kernel**2, True)

    def add(self, a, b):
        return self._op("ADD", [a, b], self.shape(a))

    def mul(self, a, b):
        return self._op("MUL", [a, b], self.shape(a))

    def hard_swish(self, x):
        return self._op("HARD_SWISH", [x], self.shape(x))

    def pool(self, x):
        return self._op("AVERAGE_POOL_2D", [x], (1, 1, 1, self.shape(x)[-1]))

    def flat(self, x):
        return self._op("RESHAPE", [x], (1, prod(self.shape(x))))

    def dense(self, x, classes):
        before = self.shape(x)[-1]
        return self._op("FULLY_CONNECTED", [x], (1, classes), before * classes)

    def softmax(self, x):
        return self._op("SOFTMAX", [x], self.shape(x))

    def graph(self, output, dtype=None):
        return FileGraph(
            format="tflite",
            tensors=tuple(self.tensors.values()),
            ops=to_ops(self.nodes, self.tensors),
            inputs=(self.input,),
            outputs=(output,),
            dtype=dtype or ("int8" if self.width == 1 else "fp32"),
        )


def head(net, x, classes):
    return net.softmax(net.dense(net.flat(net.pool(x)), classes))


def mobilenet_v1(width=1, size=224, alpha=1.0, classes=1000):
    """Howard et al. 2017, table 1."""
    net = Net(size, width=width)
    x = net.conv(net.input, int(32 * alpha), 3, 2)
    layers = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    for channels, stride in (*layers, (1024, 2), (1024, 1)):
        x = net.conv(net.depthwise(x, 3, stride), int(channels * alpha))
    return net.graph(head(net, x, classes))


def mobilenet_v2(width=1, size=224):
    """Sandler et al. 2018, table 2."""
    net = Net(size, width=width)
    x = net.conv(net.input, 32, 3, 2)
    blocks = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)]
    for expand, channels, repeats, stride in (*blocks, (6, 160, 3, 2), (6, 320, 1, 1)):
        for step in (stride, *[1] * (repeats - 1)):
            x = _block(net, x, expand * net.shape(x)[-1], channels, 3, step)
    return net.graph(head(net, net.conv(x, 1280), 1000))


def _block(net, x, middle, channels, kernel, stride, squeeze=None, swish=False):
    act = net.hard_swish if swish else lambda y: y  # ReLU6 is fused, hard-swish is not
    y = act(net.conv(x, middle)) if middle != net.shape(x)[-1] else x
    y = act(net.depthwise(y, kernel, stride))
    if squeeze:
        gate = net.conv(net.conv(net.pool(y), squeeze), middle)
        y = net.mul(y, gate)
    y = net.conv(y, channels)
    return net.add(x, y) if net.shape(x) == net.shape(y) else y


def _v3(width, rows, last, hidden, swish_from):
    net = Net(224, width=width)
    x = net.hard_swish(net.conv(net.input, 16, 3, 2))
    for i, (kernel, middle, channels, squeeze, stride) in enumerate(rows):
        x = _block(net, x, middle, channels, kernel, stride, squeeze, i >= swish_from)
    x = net.pool(net.hard_swish(net.conv(x, last)))
    x = net.hard_swish(net.conv(x, hidden))
    return net.graph(net.softmax(net.dense(net.flat(x), 1000)))


def mobilenet_v3_large(width=1):
    """Howard et al. 2019, table 1."""
    rows = [
        (3, 16, 16, None, 1), (3, 64, 24, None, 2), (3, 72, 24, None, 1), (5, 72, 40, 24, 2),
        (5, 120, 40, 32, 1), (5, 120, 40, 32, 1), (3, 240, 80, None, 2), (3, 200, 80, None, 1),
        (3, 184, 80, None, 1), (3, 184, 80, None, 1), (3, 480, 112, 120, 1),
        (3, 672, 112, 168, 1), (5, 672, 160, 168, 2), (5, 960, 160, 240, 1),
        (5, 960, 160, 240, 1),
    ]  # fmt: skip
    return _v3(width, rows, 960, 1280, 6)


def mobilenet_v3_small(width=1):
    """Howard et al. 2019, table 2."""
    rows = [
        (3, 16, 16, 8, 2), (3, 72, 24, None, 2), (3, 88, 24, None, 1), (5, 96, 40, 24, 2),
        (5, 240, 40, 64, 1), (5, 240, 40, 64, 1), (5, 120, 48, 32, 1), (5, 144, 48, 40, 1),
        (5, 288, 96, 72, 2), (5, 576, 96, 144, 1), (5, 576, 96, 144, 1),
    ]  # fmt: skip
    return _v3(width, rows, 576, 1024, 3)
