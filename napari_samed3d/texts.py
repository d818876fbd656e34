"""What the window says: tooltips, buttons and keys in one place."""

# By the widget's attribute, in the order of the window.
TOOLTIPS = {
    "image": "The image layer to segment: three axes, one intensity a voxel.",
    "model": "What answers the clicks. A name that is not on this computer yet is downloaded when it is first used.",
    "weights": "The path of a .pth, .pt or .safetensors file.",
    "device": "Where the model runs. Auto takes a GPU if there is one.",
    "auto_run": "If off, clicks are collected until you press 'run'; the image is looked at in the meantime.",
    "follow": "Where an object reaches the edge of its window, look further; where it is small in it, and at the "
    "border of a large one, look closer.",
    "threshold": "In the 3D view a click goes to the first voxel along its ray that is brighter than this.",
    "kind": "What the next click says: this is the object, or this is not. Key: T.",
    "objects": "The object that clicks change. Choose another to correct it; this one stays as it is.",
}

THRESHOLD = "3D clicks hit above"
NO_CLICKS = "(To click, press T: a clicks layer is not selected, not shown, or not set to add points.)"

CLOSED = "This panel was closed. Open it from the Plugins menu."

BUTTONS = {
    "undo": "Take the last click back, or the last change of a click. Key: Ctrl+Z.",
    "redo": "Bring back what was undone. Key: Ctrl+Shift+Z.",
    "reset": "Take all clicks of this object away; undo brings them back.",
    "accept": "Keep this object and begin the next one. Clicks never overwrite accepted objects. Key: N.",
    "run": "Segment now.",
    "cancel": "Stop; the mask stays as far as it came.",
    "save ...": "Write all objects as one label file on the image's own grid.",
}

KEYS = {
    "T": "toggle_kind",
    "N": "accept",
    "Control-Z": "undo",
    "Control-Shift-Z": "redo",
}
