"""Addresses of the annotation pages."""

from django.urls import path

from annotation.views import (
    context_drawer,
    disputes,
    drafts,
    guidelines,
    home,
    judge,
    review,
    samples,
    session,
    task,
    work,
    write,
)

app_name = "annotation"
urlpatterns = [
    path("", home.home, name="home"),
    path("p/<slug:slug>/", home.project, name="project"),
    path("p/<slug:slug>/judge/", judge.judge, name="judge"),
    path("p/<slug:slug>/judge/skip/", judge.skip, name="judge-skip"),
    path("p/<slug:slug>/judge/undo/", judge.undo, name="judge-undo"),
    path("p/<slug:slug>/judge/extend/", judge.extend, name="judge-extend"),
    path("p/<slug:slug>/judge/session/", session.session, name="judge-session"),
    path(
        "p/<slug:slug>/judge/session/close/",
        session.close_notice,
        name="judge-close-notice",
    ),
    path("p/<slug:slug>/judge/later/", judge.later, name="judge-later"),
    path("p/<slug:slug>/judge/ahead/", judge.ahead, name="judge-ahead"),
    path("p/<slug:slug>/judge/leave/", judge.leave, name="judge-leave"),
    path("p/<slug:slug>/judge/task/", task.task, name="judge-task"),
    path("p/<slug:slug>/judge/task/undo/", task.undo, name="judge-task-undo"),
    path(
        "p/<slug:slug>/judge/context/<int:pk>/",
        context_drawer.context,
        name="judge-context",
    ),
    path("p/<slug:slug>/guideline/", guidelines.guideline, name="guideline"),
    path("p/<slug:slug>/guideline/edit/", guidelines.edit, name="guideline-edit"),
    path(
        "p/<slug:slug>/guideline/preview/",
        guidelines.preview,
        name="guideline-preview",
    ),
    path(
        "p/<slug:slug>/guideline/history/",
        guidelines.history,
        name="guideline-history",
    ),
    path("p/<slug:slug>/guideline/read/", guidelines.read, name="guideline-read"),
    path("p/<slug:slug>/guideline/pin/<int:pk>/", guidelines.pin, name="example-pin"),
    path(
        "p/<slug:slug>/guideline/unpin/<int:pk>/",
        guidelines.unpin,
        name="example-unpin",
    ),
    path("p/<slug:slug>/write/", drafts.drafts, name="write"),
    path("p/<slug:slug>/write/new/", drafts.new, name="draft-new"),
    path("p/<slug:slug>/write/paste/", drafts.paste, name="draft-paste"),
    path(
        "p/<slug:slug>/write/from/<int:pk>/",
        drafts.duplicate,
        name="draft-duplicate",
    ),
    path("p/<slug:slug>/write/revise/<int:pk>/", drafts.revise, name="draft-revise"),
    path("p/<slug:slug>/write/<int:pk>/", write.draft, name="draft"),
    path("p/<slug:slug>/write/<int:pk>/save/", write.save, name="draft-save"),
    path("p/<slug:slug>/write/<int:pk>/delete/", drafts.delete, name="draft-delete"),
    path("p/<slug:slug>/work/", work.work, name="work"),
    path("p/<slug:slug>/samples/", samples.samples, name="samples"),
    path("p/<slug:slug>/samples/coverage/", samples.coverage, name="coverage"),
    path("p/<slug:slug>/samples/export/", samples.export, name="samples-export"),
    path("p/<slug:slug>/samples/import/", samples.import_, name="samples-import"),
    path("p/<slug:slug>/samples/<int:pk>/", samples.sample, name="sample"),
    path(
        "p/<slug:slug>/samples/<int:pk>/approve/",
        samples.approve,
        name="sample-approve",
    ),
    path(
        "p/<slug:slug>/samples/<int:pk>/retire/", samples.retire, name="sample-retire"
    ),
    path(
        "p/<slug:slug>/samples/<int:pk>/history/",
        review.history,
        name="sample-history",
    ),
    path("p/<slug:slug>/review/", review.review, name="review"),
    path("p/<slug:slug>/review/bulk/", review.bulk, name="review-bulk"),
    path("p/<slug:slug>/review/disputes/", disputes.disputes, name="disputes"),
    path("p/<slug:slug>/pairs/<int:pk>/", disputes.pair, name="pair"),
    path("p/<slug:slug>/pairs/<int:pk>/settle/", disputes.settle, name="pair-settle"),
    path(
        "p/<slug:slug>/review/<int:pk>/approve/", review.approve, name="review-approve"
    ),
    path("p/<slug:slug>/review/<int:pk>/return/", review.return_, name="review-return"),
    path(
        "p/<slug:slug>/review/<int:pk>/comment/", review.comment, name="review-comment"
    ),
    path("p/<slug:slug>/review/<int:pk>/fix/", review.fix, name="review-fix"),
    path(
        "p/<slug:slug>/comments/<int:pk>/resolve/",
        review.resolve,
        name="comment-resolve",
    ),
    path(
        "p/<slug:slug>/samples/<int:pk>/return/", samples.return_, name="sample-return"
    ),
]
