"""Pairs the rows of a table with its columns so that the sum of the chosen entries is as large as it can be."""

from __future__ import annotations

from torch import Tensor

_FAR = float("inf")


def best_assignment(scores: Tensor) -> list[tuple[int, int]]:
    """Returns pairs (row, column), by row: as many as the shorter side has, none sharing a row or a column.

    scores: (rows, columns), finite. The Hungarian method in the form of shortest augmenting paths (Kuhn 1955; Jonker
    and Volgenant 1987), exact, of order shorter^2 * longer: meant for tables of hundreds, such as attention heads.
    """
    turned = scores.shape[0] > scores.shape[1]
    table = (scores.mT if turned else scores).double().neg().tolist()
    owners = _column_owners(table)
    pairs = [(row, column) for column, row in enumerate(owners) if row >= 0]
    return sorted((column, row) for row, column in pairs) if turned else sorted(pairs)


def _column_owners(costs: list[list[float]]) -> list[int]:
    """Gives the row that each column goes to at least cost, -1 for a column that is left over; rows <= columns."""
    width = len(costs[0]) if costs else 0
    row_price, column_price = [0.0] * len(costs), [0.0] * width
    owners = [-1] * width
    for start in range(len(costs)):
        came_from, last = _shortest_path(costs, start, row_price, column_price, owners)
        # Along the path from the free column back to the new row every owner moves on by one column.
        while last >= 0:
            before = came_from[last]
            owners[last] = start if before < 0 else owners[before]
            last = before
    return owners


def _shortest_path(
    costs: list[list[float]], start: int, row_price: list[float], column_price: list[float], owners: list[int]
) -> tuple[list[int], int]:
    """Gives, for each column, the column before it on the cheapest path from row `start`, and the free column reached.

    Prices are updated so that every reduced cost stays at or above zero and is zero along the path.
    """
    width = len(column_price)
    distance, came_from, done = [_FAR] * width, [-1] * width, [False] * width
    row, reached, at = start, 0.0, -1
    while True:
        for column in range(width):
            if not done[column]:
                length = reached + costs[row][column] - row_price[row] - column_price[column]
                if length < distance[column]:
                    distance[column], came_from[column] = length, at
        at = min((column for column in range(width) if not done[column]), key=distance.__getitem__)
        reached = distance[at]
        if owners[at] < 0:
            break
        done[at], row = True, owners[at]
    row_price[start] += reached
    for column in range(width):
        if done[column]:
            row_price[owners[column]] += reached - distance[column]
            column_price[column] -= reached - distance[column]
    return came_from, at
