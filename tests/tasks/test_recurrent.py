import pytest
import torch
from torch import nn

from tasks import UnknownNameError, get_task
from tasks.recurrent import CELLS, RecurrentNet, row_reader

PEERS = {"gru": nn.GRU, "lstm": nn.LSTM, "tanh": nn.RNN}


@pytest.mark.parametrize("cell", CELLS)
def test_cells_are_pytorchs(cell):
    torch.manual_seed(0)
    net = RecurrentNet(cell, inputs=5, width=6, outputs=3, every_step=True)
    peer = PEERS[cell](5, 6, batch_first=True)
    with torch.no_grad():
        peer.weight_ih_l0.copy_(net.cell.from_input.weight)
        peer.weight_hh_l0.copy_(net.cell.from_state.weight)
        peer.bias_ih_l0.copy_(net.cell.from_input.bias)
        peer.bias_hh_l0.zero_()
    x = torch.randn(4, 7, 5)
    torch.testing.assert_close(net(x), net.head(peer(x)[0]))
    net.every_step = False
    torch.testing.assert_close(net(x), net.head(peer(x)[0][:, -1]))


def test_rows_are_read_from_the_top():
    torch.manual_seed(0)
    reader = row_reader("tanh", 8, 6)
    image = torch.randn(2, 1, 8, 8)
    sequence = reader[0](image)
    assert torch.equal(sequence, image[:, 0])


def test_adam_learns_the_digits():
    task = get_task("digits-gru")
    rng = torch.Generator().manual_seed(0)
    params = {key: value.requires_grad_() for key, value in task.init(rng).items()}
    optimizer = torch.optim.Adam(params.values(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        task.loss(params, task.batch(rng)).backward()
        optimizer.step()
    assert task.evaluate(params)["accuracy"] > 0.85


def test_an_unknown_cell_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'gru'"):
        RecurrentNet("grue", inputs=1, width=1, outputs=1, every_step=True)
