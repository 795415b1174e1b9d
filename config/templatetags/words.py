"""The address of the message catalog for a page's scripts."""

from django import template

from config.web.words import words_url

register = template.Library()
register.simple_tag(words_url)
