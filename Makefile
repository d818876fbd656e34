# Every target sets up what it needs, once: .venv, and but for `lint` system libraries where there is apt-get.

BIN := .venv/bin
# A virtual screen, where there is no other.
HEADLESS := [ -z "$${DISPLAY:-}$${WAYLAND_DISPLAY:-}" ] && command -v xvfb-run >/dev/null
SCREEN := xvfb-run -a -s "-screen 0 1600x1000x24"

.PHONY: help demo pictures test lint install system
.NOTPARALLEL:

help:
	@echo "make demo     open napari with a volume and the plugin; without a screen, leave pictures in demo-output"
	@echo "make test     ruff, mypy and pytest"
	@echo "make lint     ruff and mypy"
	@echo "make install  what the tests need, into .venv"
	@echo "Another Python, before .venv is there: make PYTHON=python3.12 test"

demo: system .venv/all.stamp
	if $(HEADLESS); then $(SCREEN) $(BIN)/python -m napari_samed3d.demo --screenshot demo-output; \
	else $(BIN)/python -m napari_samed3d.demo; fi

# The pictures of the README: `make pictures IMAGE=ct.nii.gz POINT="116 205 9" MORE="--correct 100 200 9"`.
pictures: system .venv/all.stamp
	$(SCREEN) $(BIN)/python -m napari_samed3d.demo $(IMAGE) --point $(POINT) $(MORE) --screenshot demo-output
	cp demo-output/clicks.gif demo-output/window-2d.png demo-output/window-3d.png docs/

# In as many processes as there are cores, up to four; all tests of a file in the same one. Not the files with most tests
# first: those with few and slow ones would come last, and the other processes wait for them.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# A thread each: processes with as many threads as there are cores would wait for each other's.
test: export OMP_NUM_THREADS := 1
test: system lint
	if $(HEADLESS); then $(SCREEN) $(PYTEST); else $(PYTEST); fi

lint: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

install: system .venv/dev.stamp

system:
	@sh scripts/system.sh

.venv/%.stamp: setup.cfg constraints.txt
	sh scripts/setup.sh $*
