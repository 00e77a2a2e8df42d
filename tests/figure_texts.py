"""Whether what is written on a figure can be read."""


def texts_inside(figure) -> bool:
    """Whether every text of the figure lies within it."""
    figure.draw_without_rendering()
    box = figure.bbox
    found = list(figure.texts)
    for ax in figure.axes:
        found += [ax.title, *ax.texts]
        if ax.axison:
            found += [ax.xaxis.label, ax.yaxis.label]
    extents = [t.get_window_extent() for t in found if t.get_text() and t.get_visible()]
    return all(
        e.x0 >= box.x0 - 1 and e.x1 <= box.x1 + 1 and e.y0 >= box.y0 - 1 and e.y1 <= box.y1 + 1
        for e in extents
    )
