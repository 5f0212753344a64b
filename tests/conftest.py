from hypothesis import settings

from verification.problems import profiles

profiles.register()
settings.load_profile("ci")
