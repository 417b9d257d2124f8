"""What a billion images cost on paper: committed rows and divisions, nothing else."""

from benchmarks.harness import Row, read_rows

IMAGES = 1_000_000_000
CORES = 64  # of a machine
MACHINES = (1, 16, 256)
WORK = (
    ("read and decode", "encode", "decode 128 JPEG 640x480"),
    ("read, decode and encode by ViT-B-32", "encode", "128 JPEG 640x480"),
    ("label by what was learned, 100 classes", "predict", "N=100,000 d=512 C=100 K=300"),
)
PICTURE = "a JPEG of 640x480"


def found(component: str, size: str | None, metric: str) -> list[Row]:
    """Our rows of that size on the most threads there are, one a provider and device."""
    rows = [
        row for row in read_rows(component) if row.metric == metric and row.role == "ours" and size in (None, row.size)
    ]
    return [row for row in rows if row.threads == max(row.threads for row in rows)]


def rate(row: Row) -> tuple[float, str]:
    """Images a second of one unit, and the unit: a GPU, or a core."""
    return (row.p50, "GPU") if "NVIDIA" in row.device else (row.p50 / row.threads, "core")


def assumptions() -> list[list[str]]:
    """A line for each number that is taken from a row: what it is, where it stands, and what it comes to."""
    lines = []
    for what, component, size in WORK:
        for row in found(component, size, "rate"):
            speed, unit = rate(row)
            hours = IMAGES / speed / 3600
            lines.append(
                [what, f"{component}: {size}", f"{speed:,.0f} images/s a {unit}", f"{hours:,.0f} {unit} hours"]
            )
    for row in found("bytes", None, "bytes an image"):
        total = row.p50 * IMAGES
        shown = f"{total / 1e12:,.1f} TB" if total >= 1e12 else f"{total / 1e9:,.0f} GB"
        lines.append([row.provider, f"bytes: {row.size}", f"{row.p50:,.0f} bytes", shown])
    return lines


def machines() -> list[list[str]]:
    """Hours for some numbers of machines, and the bytes a second that the store must send them meanwhile."""
    ((_, component, size),) = [one for one in WORK if "ViT" in one[0]]
    speeds = [value for value, unit in map(rate, found(component, size, "rate")) if unit == "core"]
    pictures = [row.p50 for row in found("bytes", None, "bytes an image") if row.provider == PICTURE]
    if not (speeds and pictures):
        return []
    (speed,), (picture,), lines = speeds, pictures, []
    for count in MACHINES:
        images = speed * CORES * count
        hours = IMAGES / images / 3600
        taken = f"{hours / 24:,.1f} days" if hours > 48 else f"{hours:,.1f} hours"
        lines.append([f"{count:,}", taken, f"{images:,.0f}", f"{images * picture / 1e9:,.2f} GB/s"])
    return lines
