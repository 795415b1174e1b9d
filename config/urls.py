"""Addresses of every page."""

from django.contrib import admin
from django.urls import include, path
from django.utils.translation import gettext_lazy as _

from config.health import healthz
from config.words import words

admin.site.site_header = admin.site.site_title = _("Concord: administration")
admin.site.index_title = _("Tables")

handler400 = "config.errors.bad_request"
handler403 = "config.errors.permission_denied"
handler404 = "config.errors.page_not_found"
handler500 = "config.errors.server_error"

urlpatterns = [
    path("healthz", healthz, name="healthz"),
    path("admin/", admin.site.urls),
    path("accounts/", include("django.contrib.auth.urls")),
    path("i18n/", include("django.conf.urls.i18n")),
    path("words/<slug:language>/<slug:digest>.js", words, name="words"),
    path("", include("annotation.urls")),
    path("", include("training.urls")),
]
