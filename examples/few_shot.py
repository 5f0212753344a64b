"""Few-shot learning with a folder of your own pictures: prepare, train, learn new classes, answer.

The folder holds train/, val/ and test/, in each a folder for every class. A backbone is trained on
the classes of train/. Then it learns those of test/, which it has never seen, from the first
pictures of each, and answers for the others.

    python examples/few_shot.py PICTURES OUT
"""

import sys
from pathlib import Path

import metalearn
from metalearn import TrainConfig
from metalearn.config.commands import PrepareConfig
from metalearn.config.groups import EpisodeShape
from metalearn.data.prepare import prepare


def main(
    pictures: Path, out: Path, *, shots: int = 5, steps: int = 200, episodes: int = 100
) -> dict[str, float]:
    """Returns the share of right answers, and how sure the learner was of them on average."""
    prepare(PrepareConfig(dataset="folders", source=(pictures,), side=32, root=out / "data"))
    metalearn.train(
        TrainConfig().replace(
            run=out / "run",
            data="folders",
            data_root=out / "data",
            train=EpisodeShape(way=5, shot=shots, query=5),
            test=EpisodeShape(way=5, shot=shots, query=5),
            steps=steps,
            validate_every=min(steps, 50),
            validation_episodes=episodes,
            test_episodes=episodes,
            tracker="none",
        )
    )
    classes = [sorted(folder.iterdir()) for folder in sorted((pictures / "test").iterdir())]
    support = [file for files in classes for file in files[:shots]]
    query = [file for files in classes for file in files[shots:]]

    learner = metalearn.load(out / "run").fit(support, [file.parent.name for file in support])
    learner.save(out / "learner.safetensors")  # metalearn.load reads it back
    sure = learner.predict_proba(query).max(1)
    for file, answer, probability in zip(query, learner.predict(query), sure, strict=True):
        print(f"{file.parent.name}/{file.name}: {answer} ({100 * probability:.0f} %)")
    right = learner.score(query, [file.parent.name for file in query])
    print(f"right: {100 * right:.0f} % of {len(query)}")
    return {"right": right, "sure": float(sure.mean())}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
