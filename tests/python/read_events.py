"""Prints as JSON what TensorBoard shows of a run folder: for every tag its steps and values, by both of its readers."""

import json
import sys

from tensorboard.backend.event_processing import event_accumulator, event_file_loader
import glob
import os

folder = sys.argv[1]
accumulator = event_accumulator.EventAccumulator(folder, size_guidance={event_accumulator.SCALARS: 0, event_accumulator.TENSORS: 0})
accumulator.Reload()
shown = {}
for tag in accumulator.Tags()["scalars"]:
    shown[tag] = [[event.step, event.value] for event in accumulator.Scalars(tag)]
for tag in accumulator.Tags()["tensors"]:
    shown[tag] = [[event.step, float(event.tensor_proto.float_val[0])] for event in accumulator.Tensors(tag)]
files = sorted(glob.glob(os.path.join(folder, "events.out.tfevents.*")))
events = [sum(1 for _ in event_file_loader.LegacyEventFileLoader(file).Load()) for file in files]
json.dump({"shown": shown, "files": len(files), "events": events}, sys.stdout)
