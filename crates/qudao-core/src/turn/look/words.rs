//! What was found in a picture, in the conversation's language.

use std::collections::BTreeMap;

use qudao_plugin_api::wire::{Detected, Object};

/// Kinds of things that are told; a crowd of kinds says less than its surest.
const KINDS_MAX: usize = 12;
/// Scores that are told of each kind.
const SCORES_MAX: usize = 5;

/// A sentence such as `The picture shows: 2 persons (93 %, 88 %), 1 cup (90 %).`
pub(super) fn of(detected: &Detected, locale: &str) -> String {
    let chinese = is_chinese(locale);
    let kinds = kinds(&detected.objects);
    if kinds.is_empty() {
        let nothing = match chinese {
            true => "一张图片，其中没有识别出任何物体。",
            false => "a picture in which nothing was recognised.",
        };
        return nothing.to_owned();
    }
    let kinds: Vec<String> = kinds
        .iter()
        .take(KINDS_MAX)
        .map(
            |(label, scores)| {
                if chinese { chinese_kind(label, scores) } else { english_kind(label, scores) }
            },
        )
        .collect();
    match chinese {
        true => format!("图中有：{}。", kinds.join("，")),
        false => format!("The picture shows: {}.", kinds.join(", ")),
    }
}

/// What to write in a drawn picture in the place of labels: the names in the conversation's language
/// where they are known.
pub(super) fn captions(locale: &str) -> BTreeMap<String, String> {
    let known = CHINESE.iter().filter(|_| is_chinese(locale));
    known.map(|(label, name)| ((*label).to_owned(), (*name).to_owned())).collect()
}

/// For a picture that no model could look at.
pub(super) fn unseen(locale: &str) -> &'static str {
    match is_chinese(locale) {
        true => "一张无法查看的图片",
        false => "a picture that could not be looked at",
    }
}

fn is_chinese(locale: &str) -> bool {
    locale.starts_with("zh")
}

/// The scores of each kind, kinds and scores in the order in which they were found.
fn kinds(objects: &[Object]) -> Vec<(&str, Vec<f32>)> {
    let mut kinds: Vec<(&str, Vec<f32>)> = Vec::new();
    for object in objects {
        match kinds.iter_mut().find(|(label, _)| *label == object.label) {
            Some((_, scores)) => scores.push(object.score),
            None => kinds.push((&object.label, vec![object.score])),
        }
    }
    kinds
}

fn english_kind(label: &str, scores: &[f32]) -> String {
    let name = if scores.len() == 1 { label.to_owned() } else { plural(label) };
    format!("{} {name} ({})", scores.len(), percents(scores, " %", ", "))
}

fn chinese_kind(label: &str, scores: &[f32]) -> String {
    let known = CHINESE.iter().find(|(english, _)| *english == label);
    let name = known.map_or(label, |(_, chinese)| chinese);
    format!("{} 个{name}（{}）", scores.len(), percents(scores, "%", "、"))
}

fn percents(scores: &[f32], sign: &str, between: &str) -> String {
    let told = scores.iter().take(SCORES_MAX).map(|score| format!("{:.0}{sign}", score * 100.0));
    let mut told: Vec<String> = told.collect();
    if SCORES_MAX < scores.len() {
        told.push("…".to_owned());
    }
    told.join(between)
}

fn plural(label: &str) -> String {
    const ODD: [(&str, &str); 8] = [
        ("person", "persons"),
        ("sheep", "sheep"),
        ("skis", "skis"),
        ("scissors", "scissors"),
        ("knife", "knives"),
        ("mouse", "mice"),
        ("broccoli", "broccoli"),
        ("wine glass", "wine glasses"),
    ];
    if let Some((_, plural)) = ODD.iter().find(|(one, _)| *one == label) {
        return (*plural).to_owned();
    }
    let hissing = ["s", "x", "ch", "sh"].iter().any(|end| label.ends_with(end));
    format!("{label}{}", if hissing { "es" } else { "s" })
}

/// The classes of COCO, which most detectors know.
const CHINESE: [(&str, &str); 80] = [
    ("person", "人"),
    ("bicycle", "自行车"),
    ("car", "汽车"),
    ("motorcycle", "摩托车"),
    ("airplane", "飞机"),
    ("bus", "公共汽车"),
    ("train", "火车"),
    ("truck", "卡车"),
    ("boat", "船"),
    ("traffic light", "红绿灯"),
    ("fire hydrant", "消防栓"),
    ("stop sign", "停车标志"),
    ("parking meter", "停车计时器"),
    ("bench", "长椅"),
    ("bird", "鸟"),
    ("cat", "猫"),
    ("dog", "狗"),
    ("horse", "马"),
    ("sheep", "羊"),
    ("cow", "牛"),
    ("elephant", "大象"),
    ("bear", "熊"),
    ("zebra", "斑马"),
    ("giraffe", "长颈鹿"),
    ("backpack", "背包"),
    ("umbrella", "雨伞"),
    ("handbag", "手提包"),
    ("tie", "领带"),
    ("suitcase", "行李箱"),
    ("frisbee", "飞盘"),
    ("skis", "滑雪板"),
    ("snowboard", "单板滑雪板"),
    ("sports ball", "球"),
    ("kite", "风筝"),
    ("baseball bat", "棒球棒"),
    ("baseball glove", "棒球手套"),
    ("skateboard", "滑板"),
    ("surfboard", "冲浪板"),
    ("tennis racket", "网球拍"),
    ("bottle", "瓶子"),
    ("wine glass", "酒杯"),
    ("cup", "杯子"),
    ("fork", "叉子"),
    ("knife", "刀"),
    ("spoon", "勺子"),
    ("bowl", "碗"),
    ("banana", "香蕉"),
    ("apple", "苹果"),
    ("sandwich", "三明治"),
    ("orange", "橙子"),
    ("broccoli", "西兰花"),
    ("carrot", "胡萝卜"),
    ("hot dog", "热狗"),
    ("pizza", "披萨"),
    ("donut", "甜甜圈"),
    ("cake", "蛋糕"),
    ("chair", "椅子"),
    ("couch", "沙发"),
    ("potted plant", "盆栽"),
    ("bed", "床"),
    ("dining table", "餐桌"),
    ("toilet", "马桶"),
    ("tv", "电视"),
    ("laptop", "笔记本电脑"),
    ("mouse", "鼠标"),
    ("remote", "遥控器"),
    ("keyboard", "键盘"),
    ("cell phone", "手机"),
    ("microwave", "微波炉"),
    ("oven", "烤箱"),
    ("toaster", "烤面包机"),
    ("sink", "水槽"),
    ("refrigerator", "冰箱"),
    ("book", "书"),
    ("clock", "时钟"),
    ("vase", "花瓶"),
    ("scissors", "剪刀"),
    ("teddy bear", "泰迪熊"),
    ("hair drier", "吹风机"),
    ("toothbrush", "牙刷"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn detected(objects: &[(&str, f32)]) -> Detected {
        let object = |(label, score): &(&str, f32)| Object {
            label: (*label).to_owned(),
            score: *score,
            left: 0.0,
            top: 0.0,
            width: 1.0,
            height: 1.0,
        };
        Detected { width: 1, height: 1, objects: objects.iter().map(object).collect() }
    }

    #[test]
    fn things_are_counted_by_kind_in_either_language() {
        let two = detected(&[("person", 0.93), ("cup", 0.9), ("person", 0.88)]);
        assert_eq!(of(&two, "en"), "The picture shows: 2 persons (93 %, 88 %), 1 cup (90 %).");
        assert_eq!(of(&two, "zh-CN"), "图中有：2 个人（93%、88%），1 个杯子（90%）。");
    }

    #[test]
    fn a_drawn_picture_names_things_as_the_sentence_does() {
        assert_eq!(captions("zh-CN")["cat"], "猫");
        assert_eq!(captions("zh").len(), CHINESE.len());
        assert!(captions("en").is_empty());
    }

    #[test]
    fn an_empty_picture_is_said_to_be_empty() {
        let none = detected(&[]);
        assert_eq!(of(&none, "en"), "a picture in which nothing was recognised.");
        assert_eq!(of(&none, "zh"), "一张图片，其中没有识别出任何物体。");
    }

    #[test]
    fn many_things_are_told_in_few_words_and_unknown_names_stay() {
        let sheep = detected(&[("sheep", 0.5); 9]);
        assert_eq!(
            of(&sheep, "en"),
            "The picture shows: 9 sheep (50 %, 50 %, 50 %, 50 %, 50 %, …)."
        );
        assert_eq!(of(&detected(&[("defect", 0.5)]), "zh"), "图中有：1 个defect（50%）。");
        assert_eq!(
            ["bus", "knife", "bench", "dog"].map(plural),
            ["buses", "knives", "benches", "dogs"]
        );
    }
}
