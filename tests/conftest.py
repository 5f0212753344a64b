import gc

from hypothesis import settings

from tests import shapes

shapes.install()  # before what is checked is imported

from verification.problems import profiles  # noqa: E402

profiles.register()
settings.load_profile("ci")


def pytest_collection_finish() -> None:
    # Modules and tests stay until the end. A collection, which whatever counts bytes or times asks
    # for, need not look at them each time.
    gc.collect()
    gc.freeze()
