"""Addresses of every page."""

from django.contrib import admin
from django.contrib.auth import views as auth
from django.urls import include, path
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_safe
from django.views.generic import TemplateView

from config.web.health import healthz
from config.web.words import words

admin.site.site_header = admin.site.site_title = _("Concord: administration")
admin.site.index_title = _("Tables")

handler400 = "config.web.errors.bad_request"
handler403 = "config.web.errors.permission_denied"
handler404 = "config.web.errors.page_not_found"
handler500 = "config.web.errors.server_error"

urlpatterns = [
    path("healthz", healthz, name="healthz"),
    path("admin/", admin.site.urls),
    path("accounts/login/", auth.LoginView.as_view(), name="login"),
    path("accounts/logout/", auth.LogoutView.as_view(), name="logout"),
    path(
        "accounts/password_change/",
        auth.PasswordChangeView.as_view(),
        name="password_change",
    ),
    path(
        "accounts/password_change/done/",
        auth.PasswordChangeDoneView.as_view(),
        name="password_change_done",
    ),
    # Concord sends no mail, so it cannot send a link to set a new password.
    path(
        "accounts/password_reset/",
        require_safe(
            TemplateView.as_view(template_name="registration/password_reset.html")
        ),
        name="password_reset",
    ),
    path("i18n/", include("django.conf.urls.i18n")),
    path("words/<slug:language>/<slug:digest>.js", words, name="words"),
    path("", include("annotation.urls")),
    path("", include("training.urls")),
]
