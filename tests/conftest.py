from hypothesis import settings

from tests import shapes

shapes.install()  # before what is checked is imported

from verification.problems import profiles  # noqa: E402

profiles.register()
settings.load_profile("ci")
