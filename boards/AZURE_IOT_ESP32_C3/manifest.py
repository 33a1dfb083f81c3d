include("../esp32/manifest.py")
