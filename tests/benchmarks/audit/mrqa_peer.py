"""mrQA on one folder, and what it found as JSON. Run by the peer's own Python; knows nothing of this project.

    python mrqa_peer.py FOLDER OUTPUT [--leave-out]

What `mrqa -d FOLDER -o OUTPUT` does, with its defaults and its own report. With --leave-out a folder in which mrQA
raises is left out and named, instead of ending the audit: that is the only thing that is not mrQA's own.
"""

import json
import sys
from pathlib import Path

from MRdataset import DatasetEmptyException, import_dataset
from MRdataset.dicom import DicomDataset
from mrQA import check_compliance
from mrQA.config import THIS_DIR


def main(folder, output, leave_out):
    left_out = []
    if leave_out:
        process = DicomDataset._process_slice_collection

        def forgiving(self, one):
            try:
                return process(self, one)
            except Exception as error:  # noqa: BLE001  # whatever it is: the rest is to be audited
                left_out.append({"folder": str(one), "error": f"{type(error).__name__}: {error}"})
                return None

        DicomDataset._process_slice_collection = forgiving
    config = THIS_DIR / "resources" / "mri-config.json"
    output.mkdir(parents=True, exist_ok=True)
    dataset = import_dataset(
        data_source=[str(folder)], ds_format="dicom", name="bench", config_path=config, output_dir=str(output)
    )
    found, error = [], ""
    try:
        horizontal, _, _ = check_compliance(
            dataset=dataset, output_dir=str(output), decimals=3, tolerance=0, config_path=config
        )
        deviating = horizontal["non_compliant"]
        for sequence in deviating.get_sequence_ids():
            for parameter in deviating.get_nc_param_ids(sequence):
                for _, _, path, _ in deviating.get_nc_param_values(sequence, parameter):
                    found.append({"folder": str(path), "element": parameter})
    except DatasetEmptyException as empty:
        error = f"{type(empty).__name__}: {empty}"
    (output / "found.json").write_text(json.dumps({"found": found, "left_out": left_out, "error": error}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), "--leave-out" in sys.argv[3:])
