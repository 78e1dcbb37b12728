"""Results of the paper's tables, to compare with measured ones.

Source of every number: Tu et al., "3D Face Reconstruction from A Single Image Assisted by 2D Face Images in the Wild"
(Tables I, II, III and the text of Section IV). The paper took the results of the other methods of Table I from their
own publications. NME in per cent; None where the paper has no number.
"""

import dataclasses

SOURCE = "Tu et al., 3D Face Reconstruction from A Single Image Assisted by 2D Face Images in the Wild"


@dataclasses.dataclass(frozen=True)
class Published:
    """Published NME of one method.

    Attributes:
      method: its name in the paper. measure: key of `nme_evaluation.TITLES`, or "nme_lfpa".
      by_bin: of yaw bins 0-30, 30-60, 60-90 degrees. mean_of_bins: column "Mean" of the table.
      mean_of_images: of AFLW-LFPA, for which the paper has no bins. table: of the paper.
    """

    method: str
    measure: str
    by_bin: tuple[float | None, float | None, float | None]
    mean_of_bins: float | None
    mean_of_images: float | None = None
    table: str = "Table I"

    def as_row(self) -> dict[str, float | None]:
        """The row with keys of `metrics.summarize`; unpublished numbers are None."""
        bins = dict(zip(("0-30", "30-60", "60-90"), self.by_bin))
        return {**bins, "mean_of_bins": self.mean_of_bins, "mean_of_images": self.mean_of_images}


# A column of Table I is titled "3D Landmarks". Its numbers are of 50,000 and more dense points: the gains over DeFA
# and 3DDFA that Section IV-B gives for dense points, 4.32 and 1.92, are those of this column.
NOTES = {
    "nme_3d_dense": 'published: Table I\'s "3D Landmarks", which by the text of Section IV-B are dense points, against'
    " truth of 199 + 29 components"
}
_NO_BINS = (None, None, None)
TABLE_1 = (
    Published("SDM", "nme_2d_68", (3.67, 4.94, 9.67), 6.12),
    Published("3DDFA", "nme_2d_68", (2.83, 3.84, 6.33), 4.33),
    Published("3DDFA + SDM", "nme_2d_68", (2.78, 3.64, 6.17), 4.20),
    Published("Yu et al.", "nme_2d_68", (3.62, 6.06, 9.56), None),
    Published("3DSTN", "nme_2d_68", (3.15, 4.33, 5.98), 4.49),
    Published("DeFA", "nme_2d_68", _NO_BINS, 4.50),
    Published("PRNet", "nme_2d_68", (2.75, 3.51, 4.61), 3.62),
    Published("2DAL", "nme_2d_68", (2.75, 3.46, 4.45), 3.55),
    Published("3DDFA", "nme_3d_dense", (7.81, 10.48, 13.49), 10.59),
    Published("DeFA", "nme_3d_dense", (10.93, 13.10, 14.94), 12.99),
    Published("2DAL", "nme_3d_dense", (6.59, 8.21, 11.22), 8.67),
    Published("PAWF", "nme_lfpa", _NO_BINS, None, mean_of_images=4.72),
    Published("DeFA", "nme_lfpa", _NO_BINS, None, mean_of_images=3.86),
    Published("PRNet", "nme_lfpa", _NO_BINS, None, mean_of_images=2.93),
    Published("2DAL", "nme_lfpa", _NO_BINS, None, mean_of_images=2.88),
)

# {method: {number of wild images: NME}}; the paper does not define the points or the mean.
TABLE_2 = {
    "3DDFA": {77_228: 4.08, 115_126: 4.01, 175_534: 3.97, 367_888: 3.91},
    "DeFA": {77_228: 4.25, 115_126: 4.13, 175_534: 4.04, 367_888: 3.96},
    "2DAL": {77_228: 3.83, 115_126: 3.64, 175_534: 3.52, 367_888: 3.39},
}

# {weights of the red, pink and yellow landmarks: (NME after stage 1, NME after stage 2)}.
TABLE_3 = {"1:1:1": (4.15, 3.94), "2:1:0": (3.75, 3.52), "4:2:1": (3.65, 3.39)}


def rows_for(measure: str) -> list[Published]:
    """Rows of Table I for a measure, in the paper's order."""
    return [row for row in TABLE_1 if row.measure == measure]
