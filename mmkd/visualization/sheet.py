import cv2
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmkd.datasets.files import read_image

COLOURS = ['#00e5ff', '#ffd600', '#ff6d00', '#d500f9', '#76ff03', '#ff1744']


def draw_sheet(rows, names, out, score_thr=0.3):
    """Draw a sheet of images: ground truth, then each member's and the ensemble's boxes, into a PNG.

    Args:
        rows (list[dict]): By image: `path`, `truth` (boxes (M, 4) xyxy in pixels of the file), and `predictions`, by name a
            tuple of boxes (M, 4) and scores (M,).
        names (list[str]): Columns after the ground truth.
        out (str): The picture.
        score_thr (float): Boxes with a lower score are not drawn. Default: 0.3.
    """
    columns = ['ground truth', *names]
    figure = Figure(figsize=(2.3 * len(columns), 2.4 * len(rows) + 0.3), layout='constrained')
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for number, (row, axes_row) in enumerate(zip(rows, grid)):
        image = cv2.cvtColor(read_image(row['path']), cv2.COLOR_BGR2RGB)
        for index, (name, axes) in enumerate(zip(columns, axes_row)):
            axes.imshow(image)
            axes.set_axis_off()
            if number == 0:
                axes.set_title(name, fontsize=10)
            boxes, scores = (row['truth'], None) if index == 0 else row['predictions'][name]
            colour = '#00ff00' if index == 0 else COLOURS[(index - 1) % len(COLOURS)]
            for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
                if scores is not None and scores[i] < score_thr:
                    continue
                axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.6))
                if scores is not None:
                    axes.text(x1, max(y1, 8), f'{float(scores[i]):.2f}', color='black', fontsize=6, va='bottom',
                              bbox=dict(facecolor=colour, edgecolor='none', pad=0.6))
    figure.savefig(out, dpi=100)
