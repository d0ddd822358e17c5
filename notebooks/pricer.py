# %% [markdown]
# # What does it cost? A language model learns prices
#
# This notebook takes a language model, teaches it with QLoRA what products cost, judges it in dollars, and puts it to work. It follows the order in which one does it: items, prompts, base model, training, testing. Choose "Run all": without a GPU it takes about ten minutes.
#
# Every step is a command that you would type in a terminal; `dvc.yaml` says what each one reads and writes, `params.yaml` holds every knob.

# %% [markdown]
# ## Set up
#
# In a checkout of the project the notebook uses that one; anywhere else it clones the version named by `TAG` from `REPOSITORY`, the address that you would give to `git clone`. Then pip installs what is missing: nothing in a checkout after `make`, a few minutes on Colab, where the session has to be restarted once. Nothing is printed if all is there.

# %%
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

TAG = "v0.1.0"
REPOSITORY = os.environ.get("PRICER_REPOSITORY", "")

folders = [Path.cwd(), *Path.cwd().parents, Path("pricer")]
root = next((folder for folder in folders if (folder / "pricer/presets/demo.yaml").exists()), None)
if root is None and not REPOSITORY:
    raise SystemExit("not in a checkout: set REPOSITORY above to the address you clone from")
if root is None:
    git = ["git", "-c", "advice.detachedHead=false"]
    subprocess.run([*git, "clone", "-q", "--branch", TAG, "--", REPOSITORY, "pricer"], check=True)
os.chdir(root or "pricer")
sys.path.insert(0, os.getcwd())

# the commands of this kernel's own environment come first
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
if not shutil.which("pricer"):
    install = [sys.executable, "-m", "pip", "install", "--quiet", "-c", "constraints.txt"]
    subprocess.run([*install, "-e", ".[serve,wandb]"], check=True)
    if "numpy" in sys.modules:
        raise SystemExit("Installed. Restart the session, then run all cells again.")

# %% [markdown]
# ## Which run fits this machine
#
# Without a GPU the preset `small` runs: a model of 135 million parameters and a few hundred products from the built-in catalogue. On a T4 it is `lite`, Llama-3.2-3B on 20 thousand products in about half an hour, and on a card with more memory `full` is offered too, which takes hours to a day. The line below the cell says what fits; write another name into `PRESET` to choose it.

# %%
# %matplotlib inline
warnings.filterwarnings("ignore", message="IProgress not found")  # bars are text here

from pricer.commands.fitting import fitting_presets, gpu_bytes

fitting = fitting_presets(gpu_bytes())
PRESET = fitting[0]
print(f"this machine can train {', '.join(fitting)}; this run is {PRESET}")

# %% [markdown]
# `lite` and `full` read Llama-3.2-3B from the Hugging Face Hub: they need a token whose account has accepted its licence, as `HF_TOKEN` in Colab's secrets or in the environment. `small` needs neither token nor account. This cell hands name and token to the commands that follow, and prints nothing.

# %%
from huggingface_hub import get_token

os.environ["PRESET"] = PRESET
if PRESET != "small" and get_token():
    os.environ["HF_TOKEN"] = get_token()

# %% [markdown]
# The preset goes into `params.yaml`, the one file with every knob. What you see is what changes there: lines with + are new. If it says that the params are this preset already, nothing had to change.

# %% language="bash"
# pricer preset "$PRESET" --yes

# %% [markdown]
# ## Items
#
# `dvc repro NAME` runs a stage and those before it, and skips what has not changed. This one gets the products, cleans them, and splits them into train, validation and test; the line it prints counts them.

# %% language="bash"
# dvc repro fetch@items

# %% [markdown]
# An item has a title, a category, a price in dollars and a summary, which is all that the model will read. Most things are cheap and a few are dear, so an error of \$20 is a lot for one product and nothing for another. The test products are kept away from training until the end.

# %%
import matplotlib.pyplot as plt
import pandas as pd

items = {split: pd.read_parquet(f"data/items/{split}.parquet") for split in ("train", "test")}
items["train"]["price"].hist(bins=50)
plt.title(f"Prices of {len(items['train'])} training products")
plt.xlabel("USD")
plt.show()
items["train"][["title", "category", "price", "summary"]].head()

# %% [markdown]
# ## Prompts
#
# Each item becomes a question and its answer. The stage fetches the base model first, since its tokenizer counts the tokens, and looks up what similar products cost where the params ask for that evidence. It fails rather than cut anything silently.

# %% language="bash"
# dvc repro prompts

# %% [markdown]
# Left: how long the summaries are before the cutoff, which is the dashed line; what lies right of it is cut. Right: how long a prompt with its completion is, which has to fit the sequence length. Shorter means faster training, longer means that the model reads more.

# %%
from IPython.display import Image, Markdown, display

for chart in ("summary_tokens", "example_tokens"):
    display(Image(f"metrics/{chart}.png"))

# %% [markdown]
# This is one training example, as the model sees it. It learns to go on with the completion after "Price is $", and the loss counts the completion alone. Prices are rounded to whole dollars for training, never for the test.

# %%
example = pd.read_parquet("data/prompts/train.parquet").iloc[0]
print(example["prompt"] + example["completion"])

# %% [markdown]
# ## Base model
#
# Before anything is trained: what does the model say as it comes? The stage holds it in 4 bits and reads its probability of every whole-dollar price, for each test product. Expect it to be bad: it has read a lot about kettles, and never had to name a price.

# %% language="bash"
# dvc repro predict_base

# %% [markdown]
# `greedy_text` is what it would write, `estimate_usd` the median of its distribution. The mean absolute error below the table is the number to beat. Naming the same price for everything would be about as good.

# %%
base = pd.read_parquet("data/predictions/base.parquet").merge(items["test"][["id", "title"]])
display(base[["title", "price", "estimate_usd", "greedy_text"]].head(8))
print(f"off by ${(base['estimate_usd'] - base['price']).abs().mean():.2f} on average")

# %% [markdown]
# ## Training
#
# QLoRA leaves the 4-bit weights as they are and trains a small adapter beside them. The table tells how many parameters that adds to each kind of layer, and what memory training takes, by part. Compare the trainable parameters with those of the whole model.

# %% language="bash"
# pricer inspect

# %% [markdown]
# Training runs in the background, and every few seconds the curves are drawn anew: left the loss, right what it means in dollars, on validation products: the mean absolute error, and the CRPS, which judges the whole distribution. Both should fall, with ups and downs where validation products are few. If the validation loss rises while the training loss falls, the model learns by heart.

# %%
from contextlib import suppress

from IPython.display import clear_output

CURVES = {
    "cross-entropy": ["train_loss", "validation_loss"],
    "USD": ["validation_mae", "validation_crps"],
}


def draw(folder):
    """Draw the curves that lie in a folder up to now."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6))
    for side, (unit, names) in zip(axes, CURVES.items()):
        for name in names:
            with suppress(OSError, ValueError):  # not there yet, or being written
                table = pd.read_csv(f"{folder}/plots/metrics/{name}.tsv", sep="\t")
                side.plot(table["step"], table[name], marker="o", label=name)
        side.set(xlabel="step", ylabel=unit)
        side.legend(*side.get_legend_handles_labels())
    clear_output(wait=True)
    plt.show()


with open("data/train.log", "w") as log:
    training = subprocess.Popen(["dvc", "repro", "train"], stdout=log, stderr=log)
while training.poll() is None:
    draw("metrics/.train.partial")  # its name until it is complete
    with suppress(subprocess.TimeoutExpired):
        training.wait(timeout=3)
draw("metrics/train")
print(Path("data/train.log").read_text()[-1500:])
assert training.returncode == 0, "training failed: the lines above say why"

# %% [markdown]
# ## Testing
#
# Now the trained model prices the test products, and so do predictors that know no language: ridge regression on words, nearest neighbours, boosted trees and others. They learn from the same products and are judged on the same ones. `evaluate` puts all of them side by side.

# %% language="bash"
# dvc repro

# %% [markdown]
# The leaderboard, best first. The 95% interval says how far off the average may be with so few test products, and the last column whether the tuned model is better than a row: only if its interval stays below zero. A simple predictor may well win on this catalogue, whose prices follow from words.

# %%
display(Markdown(Path("metrics/report.md").read_text().split("\n## ")[0]))
display(Image("metrics/charts/leaderboard.png"))

# %% [markdown]
# Every test product as a point: on the dashed line the estimate is the price. Green is off by less than \$40 or 20%, orange by less than \$80 or 40%, red by more. Look at where the red ones are: they are the expensive things.

# %%
display(Image("metrics/charts/scatter.png"))

# %% [markdown]
# ## A product of yours
#
# Type in anything. The answer is a whole distribution over prices, here with its median and an interval that holds the price of about 8 in 10 such products; it was calibrated on validation products. A wide one says that the description leaves the price open.

# %%
from pricer import Predictor

product = "Electric kettle, stainless steel, 1.7 litres, 2200 W"
[estimate] = Predictor.from_pipeline().predict([product], distribution=True)

plt.bar(range(len(estimate.probabilities)), estimate.probabilities, width=1)
plt.axvspan(estimate.low_usd, estimate.high_usd, alpha=0.2, label="80% interval")
plt.axvline(estimate.estimate_usd, color="black", linestyle="--", label="median")
plt.xlim(0, max(2 * estimate.high_usd, 20))
plt.xlabel("USD")
plt.legend()
low, high = estimate.low_usd, estimate.high_usd
plt.title(f"{estimate.estimate_usd:.2f} USD ({low:.2f} to {high:.2f})")
plt.show()

# %% [markdown]
# This is the evidence: the training products that it is most similar to, with what they cost, and what a linear model makes of these and of its words. If they are nothing like your product, do not trust the price. Prompts of the reference recipe tell no evidence, so `lite` and `full` show none.

# %%
if estimate.neighbors is not None:
    display(pd.DataFrame(map(vars, estimate.neighbors)))
    print(f"words and these suggest ${estimate.words_estimate_usd:.2f}")

# %% [markdown]
# ## Change a knob
#
# `dvc exp save` keeps this run under the name `median`; `dvc exp run -S` sets a knob and runs again what depends on it. Here the estimate becomes the mean of the distribution in place of its median: watch that nothing is trained again. The first line takes away what an earlier pass of this notebook has left.

# %% language="bash"
# set -e
# dvc exp remove --quiet median mean 2> /dev/null || true
# dvc exp save --name median
# dvc exp run --name mean -S predict.point=mean

# %% [markdown]
# Both runs priced the same products, so they are compared product by product, and the interval is of the difference. If it holds \$0, the two cannot be told apart on so few products. An honest distribution is off least by its median, and its mean has the least squared error (MSE); one that a short training has left too wide may lose both by its mean.

# %% language="bash"
# pricer compare median mean

# %% [markdown]
# The run that you like goes back into the workspace with its params, metrics and data, without running anything. After `git commit` it would be the new baseline. [docs/tuning.md](../docs/tuning.md) has the knobs in the order of what to try first.

# %% language="bash"
# dvc exp apply median

# %% [markdown]
# ## Take it along
#
# Base model and adapter become one Hugging Face folder, which transformers and vLLM read (`pricer export gguf` makes a file for llama.cpp and Ollama). It is judged again before it is kept: both price the same validation products, and the lines say by how much their errors differ. Rounding moves a model of a short training more, so `--tolerance` allows a few dollars.

# %% language="bash"
# set -e
# rm -rf models/merged
# pricer export merged models/merged --products 30 --tolerance 5

# %% [markdown]
# ## Serve it
#
# `pricer serve` answers over HTTP, with a page for people at `/`; `--port 0` takes any port that is free. The line says which model answers and where. Everything it answers goes into a log, `data/estimates.sqlite`.

# %%
service = subprocess.Popen(["pricer", "serve", "--port", "0"], stderr=subprocess.PIPE, text=True)
for line in service.stderr:
    print(line, end="")
    if "http://" in line:
        address = line[line.index("http://") :].split(",")[0]
        break

# %% [markdown]
# Asked like any other service. The answer has the estimate, its interval, the evidence, and an `id`: `POST /v1/outcomes` tells the log later what the product really sold for. `fallback` would say why the model did not answer itself.

# %%
import httpx2

asked = {"products": [{"description": product}]}
# it makes an estimate of its own before it listens: a refused connection is tried again
with httpx2.Client(transport=httpx2.HTTPTransport(retries=6), timeout=60) as client:
    answer = client.post(f"{address}/v1/estimates", json=asked)
answer.raise_for_status().json()["estimates"][0]

# %% [markdown]
# Ending it lets what waits be answered and written first. The exit code 0 says that all was. On a machine of your own, `pricer serve` in a terminal runs until Ctrl-C.

# %%
service.terminate()
service.wait(timeout=60)

# %% [markdown]
# ## Where to go from here
#
# - Your own products: [docs/your-own-products.md](../docs/your-own-products.md). One file with titles, categories, prices and summaries is enough.
# - A GPU: [docs/gpu.md](../docs/gpu.md). What each number means: [docs/evaluation.md](../docs/evaluation.md).
# - All of the report, with the best and the worst products: `metrics/report.html`.
# - What this notebook changed in a checkout: `git status` shows it, `git checkout params.yaml dvc.lock metrics && dvc checkout` takes it back.
