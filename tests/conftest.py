from hypothesis import settings

from verification import profiles

profiles.register()
settings.load_profile("ci")
